// Buffers by liveness: a value's slot is free again after its last reader.
#include <algorithm>
#include <limits>

#include "program/program.h"

namespace jiffy {
namespace {

constexpr int64_t kAlign = 64;

int64_t& row_bytes(Plan::Slot& slot, Space space) {
  return space == Space::kTokens ? slot.token_row_bytes : slot.output_row_bytes;
}

// Which instructions every lane may do alone: what they make is read before the next one that is shared has ended.
std::vector<bool> replicated(const Program& program) {
  const std::vector<Instruction>& instructions = program.instructions();
  std::vector<size_t> last_read(program.values().size(), 0);
  for (size_t i = 0; i < instructions.size(); ++i) {
    for (const int v : instructions[i].inputs) last_read[static_cast<size_t>(v)] = i;
  }
  std::vector<bool> replicated(instructions.size());
  size_t shared = 0;  // the next instruction that is
  for (size_t i = instructions.size(); i-- > 0;) {
    const std::vector<int>& made = instructions[i].outputs;
    replicated[i] = op(instructions[i].op).replicable && std::all_of(made.begin(), made.end(), [&](int v) {
                      return v != program.result() && last_read[static_cast<size_t>(v)] <= shared;
                    });
    if (!replicated[i]) shared = i;
  }
  return replicated;
}

// The values whose slots are free again behind each instruction: those that nobody reads later. What a replicated one
// reads, slow lanes may still read when a fast one is done: it stays until the next that is shared.
std::vector<std::vector<int>> ends_of_lives(const Program& program, const std::vector<bool>& replicated) {
  const std::vector<Instruction>& instructions = program.instructions();
  std::vector<size_t> last(program.values().size(), 0);
  size_t shared = instructions.size();
  for (size_t i = instructions.size(); i-- > 0;) {
    if (!replicated[i]) shared = i;
    for (const std::vector<int>* list : {&instructions[i].inputs, &instructions[i].outputs}) {
      for (const int v : *list) last[static_cast<size_t>(v)] = std::max(last[static_cast<size_t>(v)], shared);
    }
  }
  std::vector<std::vector<int>> ends(instructions.size() + 1);
  for (size_t v = 0; v < last.size(); ++v) ends[last[v]].push_back(static_cast<int>(v));
  return ends;
}

// The free slot that must grow least; a new one if all would have to grow and none is free.
int take_slot(Plan& plan, std::vector<bool>& busy, const Value& value) {
  int best = -1;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (size_t s = 0; s < plan.slots.size(); ++s) {
    if (busy[s]) continue;
    const int64_t growth = std::max<int64_t>(0, value.row_bytes() - row_bytes(plan.slots[s], value.space));
    if (growth < least) {
      least = growth;
      best = static_cast<int>(s);
    }
  }
  if (best < 0) {
    best = static_cast<int>(plan.slots.size());
    plan.slots.emplace_back();
    busy.push_back(false);
  }
  int64_t& bytes = row_bytes(plan.slots[static_cast<size_t>(best)], value.space);
  bytes = std::max(bytes, value.row_bytes());
  busy[static_cast<size_t>(best)] = true;
  return best;
}

}  // namespace

int64_t Plan::Slot::bytes(int64_t n_tokens, int64_t n_outputs) const {
  const int64_t most = std::max(n_tokens * token_row_bytes, n_outputs * output_row_bytes);
  return (most + kAlign - 1) / kAlign * kAlign;
}

Plan plan_buffers(const Program& program) {
  Plan plan;
  plan.replicated = replicated(program);
  const std::vector<std::vector<int>> ends = ends_of_lives(program, plan.replicated);
  plan.slot_of.assign(program.values().size(), -1);
  std::vector<bool> busy;
  for (size_t i = 0; i < program.instructions().size(); ++i) {
    for (const int v : program.instructions()[i].outputs) {
      if (v != program.result())
        plan.slot_of[static_cast<size_t>(v)] = take_slot(plan, busy, program.values()[static_cast<size_t>(v)]);
    }
    for (const int v : ends[i]) {
      const int slot = plan.slot_of[static_cast<size_t>(v)];
      if (slot >= 0) busy[static_cast<size_t>(slot)] = false;
    }
  }
  return plan;
}

}  // namespace jiffy
