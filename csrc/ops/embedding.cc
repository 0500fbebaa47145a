// rows of the embedding table, one for each token id of the batch
#include "ops/op.h"

namespace jiffy {

void check_embedding(const Check& c) {
  c.counts(0, 1, 1);
  c.is_matrix(0, c.output(0).width);
  c.is_float(c.output(0), c.output(0).width);
  c.that(c.output(0).space == Space::kTokens, "one row a token", "one row an output");
}

void run_embedding(const Call& c, Worker& w) {
  w.share(c.batch.n_tokens, 4, [&](int64_t begin, int64_t end) {
    w.kernels.embedding({c.parameter(0).matrix, c.batch.token_ids, c.output(0).floats(), begin, end});
  });
}

}  // namespace jiffy
