#include "runtime/candidates.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/error.h"

namespace jiffy {
namespace {

constexpr int64_t kSlabsAtOnce = 4;  // that a lane copies: some microseconds' work

const Instruction& checked(const Instruction* head) {
  if (head != nullptr) return *head;
  fail(ErrorKind::kFormat, "shortlist", "a decoder that ends in a matmul of one weight", "another program");
}

const Parameter& parameter(const Instruction& head, const std::vector<Parameter>& parameters, size_t i) {
  return parameters[static_cast<size_t>(head.parameters[i])];
}

}  // namespace

CandidateMaker::CandidateMaker(std::shared_ptr<const Shortlist> shortlist, const Instruction* head,
                               const std::vector<Parameter>& parameters, ThreadPool& pool)
    : shortlist_(std::move(shortlist)),
      weight_(parameter(checked(head), parameters, 0).matrix, pool),
      bias_(head->parameters[1] < 0 ? nullptr : parameter(*head, parameters, 1).floats),
      pool_(pool) {
  if (shortlist_->target_vocab() > weight_.n_rows()) {
    fail(ErrorKind::kFormat, "shortlist",
         "at most " + std::to_string(weight_.n_rows()) + " tokens, the decoder's logits",
         std::to_string(shortlist_->target_vocab()));
  }
}

// The first spare piece that is large enough; else a new one, in the place of a spare one that is not.
Buffer CandidateMaker::take(size_t bytes) {
  const auto fits = [=](const Buffer& memory) { return memory.size() >= bytes; };
  const auto found = std::find_if(spare_->begin(), spare_->end(), fits);
  if (found != spare_->end()) {
    Buffer memory = std::move(*found);
    spare_->erase(found);
    return memory;
  }
  if (!spare_->empty()) {
    spare_->pop_back();
    --n_buffers_;
  }
  spare_->reserve(n_buffers_ + 1);
  Buffer memory = Buffer::allocate(std::bit_ceil(bytes), "candidates of a source text");
  ++n_buffers_;
  return memory;
}

std::unique_ptr<Candidates> CandidateMaker::allocate(std::vector<int32_t> ids) {
  const auto n = static_cast<int64_t>(ids.size()), stride = weight_.bytes_of_slab();
  auto made = std::make_unique<Candidates>(take(static_cast<size_t>(n_slabs(n) * stride)), spare_);
  made->weight = {made->memory.as<uint8_t>(), stride, n, weight_.cols(), weight_.format()};
  if (bias_ != nullptr) {
    made->bias.reserve(ids.size());
    for (const int32_t id : ids) made->bias.push_back(bias_[id]);
  }
  made->ids = std::move(ids);
  return made;
}

// A chunk is some slabs of a text.
void CandidateMaker::gather(const std::vector<std::unique_ptr<Candidates>>& all) {
  pool_.run([&](Lane& lane) {
    auto text = all.begin();  // chunks come in ascending order
    int64_t first = 0;        // chunk of that text
    const auto chunks = [](const Candidates& c) { return (n_slabs(c.weight.rows) + kSlabsAtOnce - 1) / kSlabsAtOnce; };
    for (int64_t chunk; (chunk = lane.next_chunk()) < Lane::kNoChunk;) {
      for (; text != all.end() && chunk - first >= chunks(**text); ++text) first += chunks(**text);
      if (text == all.end()) return;
      const PackedMatrix& to = (*text)->weight;
      uint8_t* const memory = (*text)->memory.as<uint8_t>();
      const int64_t begin = (chunk - first) * kSlabsAtOnce, end = std::min(begin + kSlabsAtOnce, n_slabs(to.rows));
      for (int64_t slab = begin; slab < end; ++slab) {
        weight_.gather_slab((*text)->ids.data(), to.rows, slab, memory + slab * to.slab_stride);
      }
    }
  });
}

void CandidateMaker::make(const std::vector<SourceText*>& texts, const std::vector<std::vector<int32_t>>& forced) {
  std::vector<std::unique_ptr<Candidates>> all;
  for (size_t i = 0; i < texts.size(); ++i) {
    all.push_back(allocate(shortlist_->candidates(texts[i]->tokens(), forced[i])));
  }
  gather(all);
  for (size_t i = 0; i < texts.size(); ++i) texts[i]->candidates = std::move(all[i]);
}

}  // namespace jiffy
