// The pool of blocks and the scheduler without a model, for tests that drive them.
#include <pybind11/stl.h>

#include <utility>

#include "base/error.h"
#include "bindings/bindings.h"
#include "runtime/block_pool.h"
#include "runtime/scheduler.h"

namespace py = pybind11;

namespace jiffy {
namespace {

uint64_t one_hash(uint64_t, const int32_t*) { return 0; }

PrefixHash hash_named(const std::string& name) {
  if (name == "none") return nullptr;
  return name == "colliding" ? one_hash : prefix_hash;
}

const int32_t* full_block(const std::vector<int32_t>& tokens) {
  if (tokens.size() != kBlockSize) {
    fail(ErrorKind::kParameter, "tokens", std::to_string(kBlockSize), std::to_string(tokens.size()));
  }
  return tokens.data();
}

// A scheduler over a pool of its own.
struct PlainScheduler {
  PlainScheduler(int64_t n_blocks, int64_t max_batch, int64_t prefill_chunk, const std::string& hash)
      : pool(n_blocks, hash_named(hash)),
        scheduler(pool, max_batch, prefill_chunk, [this](int32_t from, int32_t to) { copies.emplace_back(from, to); }) {
  }

  BlockPool pool;
  Scheduler scheduler;
  std::vector<std::pair<int32_t, int32_t>> copies;  // of the last schedule()
};

std::unique_ptr<Sequence> make_sequence(int64_t id, const std::vector<int32_t>& prompt) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->tokens = prompt;
  sequence->n_prompt = sequence->n_tokens();
  return sequence;
}

void add(PlainScheduler& s, int64_t id, const std::vector<int32_t>& prompt, int64_t n) {
  auto first = make_sequence(id, prompt);
  for (int64_t child = id + 1; child < id + n; ++child) first->children.emplace(child, make_sequence(child, prompt));
  s.scheduler.add(std::move(first));
}

std::vector<Slice> schedule(PlainScheduler& s) {
  s.copies.clear();
  return s.scheduler.schedule();
}

// What Engine does when a step is done: tokens maps each sequence that is to get one to its token.
void commit(PlainScheduler& s, const std::vector<Slice>& slices, const std::map<int64_t, int32_t>& tokens,
            const std::vector<int64_t>& finished) {
  for (const Slice& slice : slices) {
    Sequence& sequence = *slice.sequence;
    sequence.n_computed += slice.count;
    if (!slice.output) continue;
    s.scheduler.register_blocks(sequence);
    sequence.tokens.push_back(tokens.at(sequence.id));
    for (const auto& [id, child] : sequence.children) child->tokens.push_back(tokens.at(id));
  }
  for (const int64_t id : finished) s.scheduler.remove(id);
  s.scheduler.fork();
}

void bind_scheduler(py::module_& m) {
  py::class_<Slice>(m, "Slice", "Tokens of a sequence that the next step computes; stays valid until commit().")
      .def_property_readonly("id", [](const Slice& s) { return s.sequence->id; })
      .def_property_readonly("position", [](const Slice& s) { return s.sequence->n_computed; })
      .def_property_readonly("n_tokens", [](const Slice& s) { return s.sequence->n_tokens(); })
      .def_property_readonly("blocks", [](const Slice& s) { return s.sequence->block_table; })
      .def_readonly("count", &Slice::count)
      .def_readonly("output", &Slice::output);

  py::class_<PlainScheduler>(m, "Scheduler")
      .def(py::init<int64_t, int64_t, int64_t, std::string>(), py::arg("n_blocks"), py::arg("max_batch"),
           py::arg("prefill_chunk"), py::arg("hash") = "good")
      .def("add", &add, py::arg("id"), py::arg("prompt"), py::arg("n") = 1)
      .def("schedule", &schedule)
      .def("commit", &commit, py::arg("slices"), py::arg("tokens"), py::arg("finished"))
      .def(
          "remove", [](PlainScheduler& s, int64_t id) { return s.scheduler.remove(id); }, py::arg("id"))
      .def(
          "n_users", [](const PlainScheduler& s, int32_t block) { return s.pool.n_users(block); }, py::arg("block"))
      .def_readonly("copies", &PlainScheduler::copies, "(from, to) of each block copied by the last schedule().")
      .def_property_readonly("n_free", [](const PlainScheduler& s) { return s.pool.n_free(); })
      .def_property_readonly("n_running", [](const PlainScheduler& s) { return s.scheduler.n_running(); })
      .def_property_readonly("n_cached_tokens", [](const PlainScheduler& s) { return s.scheduler.n_cached_tokens(); })
      .def_property_readonly("idle", [](const PlainScheduler& s) { return s.scheduler.idle(); });
}

}  // namespace

void bind_runtime(py::module_& m) {
  m.attr("BLOCK_SIZE") = kBlockSize;
  m.attr("NO_BLOCK") = kNoBlock;
  py::class_<BlockPool>(m, "BlockPool", "hash: good, colliding (all blocks alike) or none (no prefix is known).")
      .def(py::init([](int64_t n_blocks, const std::string& hash) { return BlockPool(n_blocks, hash_named(hash)); }),
           py::arg("n_blocks"), py::arg("hash") = "good")
      .def("allocate", &BlockPool::allocate)
      .def("share", &BlockPool::share, py::arg("block"))
      .def("release", &BlockPool::release, py::arg("block"))
      .def(
          "find",
          [](const BlockPool& pool, int32_t parent, const std::vector<int32_t>& tokens) {
            return pool.find(parent, full_block(tokens));
          },
          py::arg("parent"), py::arg("tokens"))
      .def(
          "register_full",
          [](BlockPool& pool, int32_t block, int32_t parent, const std::vector<int32_t>& tokens) {
            return pool.register_full(block, parent, full_block(tokens));
          },
          py::arg("block"), py::arg("parent"), py::arg("tokens"))
      .def("n_users", &BlockPool::n_users, py::arg("block"))
      .def_property_readonly("n_free", &BlockPool::n_free)
      .def_property_readonly("n_blocks", &BlockPool::n_blocks);
  bind_scheduler(m);
}

}  // namespace jiffy
