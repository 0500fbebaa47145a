// What a shortlist leaves of a decoder's last matmul for each source text.
#pragma once

#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "ops/op.h"
#include "quant/gather.h"
#include "runtime/shortlist.h"
#include "runtime/source_text.h"

namespace jiffy {

class CandidateMaker {
 public:
  // head: the matmul of one weight that the decoder ends in; nullptr, or one with fewer outputs than the shortlist has
  // tokens, throws kFormat. parameters: the program's, which must live as long as this. Throws kOutOfMemory.
  CandidateMaker(std::shared_ptr<const Shortlist> shortlist, const Instruction* head,
                 const std::vector<Parameter>& parameters, ThreadPool& pool);

  // Whether a text has any: all tokens may translate one with an unknown token.
  bool serves(const SourceText& text) const { return shortlist_->covers(text.tokens()); }

  // Gives texts that it serves theirs. forced: of each text, tokens that its request says. Throws kOutOfMemory: then
  // none has any.
  void make(const std::vector<SourceText*>& texts, const std::vector<std::vector<int32_t>>& forced);

 private:
  Buffer take(size_t bytes);
  std::unique_ptr<Candidates> allocate(std::vector<int32_t> ids);
  void gather(const std::vector<std::unique_ptr<Candidates>>& all);

  std::shared_ptr<const Shortlist> shortlist_;
  const RowsOfMatrix weight_;
  const float* const bias_;  // or nullptr
  ThreadPool& pool_;
  std::shared_ptr<SpareMemory> spare_ = std::make_shared<SpareMemory>();
  size_t n_buffers_ = 0;  // spare ones and those of texts
};

}  // namespace jiffy
