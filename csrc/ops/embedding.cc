// rows of a table, one for each token of the batch: by its id, its type or its position
#include <cstring>

#include "ops/op.h"

namespace jiffy {
namespace {

const int32_t* indices(const Call& c) {
  switch (c.at.attributes.indices) {
    case Indices::kTypes:
      return c.batch.type_ids;
    case Indices::kPositions:
      return c.batch.positions;
    case Indices::kTokens:
      break;
  }
  return c.batch.token_ids;
}

void copy_rows(const float* table, int64_t width, const int32_t* ids, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    std::memcpy(y + i * width, table + ids[i] * width, static_cast<size_t>(width) * sizeof(float));
  }
}

}  // namespace

void check_embedding(const Check& c) {
  c.counts(0, 1, 1);
  c.that(c.has_parameter(0), "a table", "none");
  if (c.parameter(0).floats != nullptr) {
    c.is_floats(0, 0, c.output(0).width);
    c.that(c.at.attributes.scale == 0.0f, "no scale beside a table of floats", std::to_string(c.at.attributes.scale));
  } else {
    c.is_matrix(0, c.output(0).width);
  }
  c.is_float(c.output(0), c.output(0).width);
  c.that(c.output(0).space == Space::kTokens, "one row a token", "one row an output");
  c.that(c.at.attributes.indices <= Indices::kPositions, "indices of 0 to 2",
         std::to_string(static_cast<int>(c.at.attributes.indices)));
}

void run_embedding(const Call& c, Worker& w) {
  const Parameter& table = c.parameter(0);
  w.share(c.batch.n_tokens, 4, [&](int64_t begin, int64_t end) {
    if (table.floats != nullptr) {
      copy_rows(table.floats, table.cols, indices(c), c.output(0).floats(), begin, end);
    } else {
      const float scale = c.at.attributes.scale == 0.0f ? 1.0f : c.at.attributes.scale;
      w.kernels.embedding({table.matrix, indices(c), c.output(0).floats(), scale, begin, end});
    }
  });
}

}  // namespace jiffy
