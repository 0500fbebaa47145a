#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "jiffy's native side: weights, programs and the engine that runs them.";
  jiffy::bind_errors(m);
  jiffy::bind_cpu(m);
  jiffy::bind_thread_pool(m);
  jiffy::bind_weight(m);
  jiffy::bind_program(m);
  jiffy::bind_packed(m);
  jiffy::bind_encoder(m);
  jiffy::bind_engine(m);
  jiffy::bind_ops(m);
  jiffy::bind_runtime(m);
}
