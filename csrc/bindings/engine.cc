#include "runtime/engine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <numeric>

#include "bindings/bindings.h"
#include "bindings/interruptible.h"
#include "bindings/profile.h"
#include "kernels/cpu/select.h"
#include "runtime/recorder.h"

namespace py = pybind11;

namespace jiffy {

namespace {

py::array_t<float> logits(Engine& engine, std::vector<int32_t> tokens, std::vector<int32_t> source) {
  py::array_t<float> out({static_cast<py::ssize_t>(tokens.size()), static_cast<py::ssize_t>(engine.vocab_size())});
  float* data = out.mutable_data();
  interruptible([&] { engine.logits(std::move(tokens), data, python_signal, {}, std::move(source)); });
  return out;
}

// The logits, and the rows of the values.
py::tuple observe(Engine& engine, std::vector<int32_t> tokens, const std::vector<int>& values,
                  std::vector<int32_t> source) {
  const py::ssize_t n_tokens = static_cast<py::ssize_t>(tokens.size());
  Recorder recorder(engine.program(), values, n_tokens);
  py::array_t<float> out({n_tokens, static_cast<py::ssize_t>(engine.vocab_size())});
  float* data = out.mutable_data();
  interruptible([&] { engine.logits(std::move(tokens), data, python_signal, std::ref(recorder), std::move(source)); });
  py::list rows;
  for (size_t i = 0; i < values.size(); ++i) {
    rows.append(py::array_t<float>({n_tokens, static_cast<py::ssize_t>(recorder.width(i))}, recorder.rows(i)));
  }
  return py::make_tuple(std::move(out), std::move(rows));
}

// The step's tokens, and what each of its instructions did.
py::tuple profile_step(Engine& engine) {
  std::vector<InstructionProfile> profile;
  profile.reserve(engine.program().instructions().size());
  auto events = interruptible([&] { return engine.step(python_signal, profiling(profile)); });
  return py::make_tuple(std::move(events), std::move(profile));
}

py::array_t<float> score(Engine& engine, std::vector<int32_t> tokens) {
  py::array_t<float> out(tokens.empty() ? 0 : static_cast<py::ssize_t>(tokens.size()) - 1);
  float* data = out.mutable_data();
  interruptible([&] { engine.score(std::move(tokens), data, python_signal); });
  return out;
}

const char* reason_name(const TokenEvent& event) {
  switch (event.reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kError:
      return "error";
    case FinishReason::kNone:
      break;
  }
  return nullptr;
}

std::shared_ptr<Engine> make_engine(std::shared_ptr<Program> program, std::shared_ptr<ThreadPool> pool,
                                    const std::string& isa, int64_t context, int64_t max_batch, int64_t prefill_chunk,
                                    const std::string& kv_dtype, bool prefix_cache, std::shared_ptr<Encoder> encoder,
                                    std::shared_ptr<Shortlist> shortlist) {
  const EngineOptions options{.context = context,
                              .max_batch = max_batch,
                              .prefill_chunk = prefill_chunk,
                              .kv_type = parse_kv_type(kv_dtype),
                              .prefix_cache = prefix_cache};
  return std::make_shared<Engine>(std::move(program), std::move(pool), select_kernels(isa), options, std::move(encoder),
                                  std::move(shortlist));
}

std::shared_ptr<Shortlist> make_shortlist(const py::bytes& data, const std::string& name, int64_t source_vocab,
                                          int64_t target_vocab, bool shared, std::vector<int32_t> eos_ids,
                                          int32_t unk_id) {
  const std::string_view bytes = data;
  ShortlistUse use{source_vocab, target_vocab, shared, std::move(eos_ids), unk_id};
  return std::make_shared<Shortlist>(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), name,
                                     std::move(use));
}

std::vector<int64_t> add(Engine& engine, std::vector<int32_t> prompt, int64_t n, int64_t max_tokens, float temperature,
                         int64_t top_k, float top_p, float min_p, float repetition_penalty, float presence_penalty,
                         float frequency_penalty, int64_t logprobs, uint64_t seed, bool ignore_eos,
                         std::vector<int32_t> stop_ids, const Constraints& constraints, const BeamParams& beams,
                         std::vector<int32_t> source) {
  const int64_t first = engine.add(std::move(prompt),
                                   {.max_tokens = max_tokens,
                                    .temperature = temperature,
                                    .top_k = top_k,
                                    .top_p = top_p,
                                    .min_p = min_p,
                                    .repetition_penalty = repetition_penalty,
                                    .presence_penalty = presence_penalty,
                                    .frequency_penalty = frequency_penalty,
                                    .logprobs = logprobs,
                                    .seed = seed,
                                    .ignore_eos = ignore_eos,
                                    .stop_ids = std::move(stop_ids),
                                    .constraints = constraints,
                                    .beams = beams},
                                   n, std::move(source));
  std::vector<int64_t> numbers(static_cast<size_t>(n));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

// What a request may ask for.
void bind_request(py::module_& m) {
  py::class_<Constraints>(m, "Constraints", "What the next token must not, or must, be.")
      .def(py::init([](int64_t min_tokens, int64_t no_repeat_ngram, int32_t forced_first, int32_t forced_last,
                       std::vector<std::vector<int32_t>> bad_words) {
             return Constraints{min_tokens, no_repeat_ngram, forced_first, forced_last, std::move(bad_words)};
           }),
           py::kw_only(), py::arg("min_tokens") = 0, py::arg("no_repeat_ngram") = 0, py::arg("forced_first") = -1,
           py::arg("forced_last") = -1, py::arg("bad_words") = py::list());

  py::enum_<EarlyStopping>(m, "EarlyStopping")
      .value("no", EarlyStopping::kNo)
      .value("yes", EarlyStopping::kYes)
      .value("never", EarlyStopping::kNever);

  py::class_<BeamParams>(m, "BeamParams", "width: beams, 1 for no search. n: hypotheses that are given back.")
      .def(py::init([](int64_t width, int64_t n, float length_penalty, EarlyStopping early_stopping) {
             return BeamParams{width, n, length_penalty, early_stopping};
           }),
           py::kw_only(), py::arg("width") = 1, py::arg("n") = 1, py::arg("length_penalty") = 1.0f,
           py::arg_v("early_stopping", EarlyStopping::kNo, "..."));
}

// What steps give back.
void bind_events(py::module_& m) {
  py::class_<Hypothesis>(m, "Hypothesis")
      .def_readonly("token_ids", &Hypothesis::tokens)
      .def_readonly("score", &Hypothesis::score)
      .def_readonly("stopped", &Hypothesis::stopped);

  py::class_<TokenEvent>(m, "TokenEvent")
      .def_readonly("request", &TokenEvent::request)
      .def_readonly("token", &TokenEvent::token)
      .def_readonly("logprob", &TokenEvent::logprob)
      .def_readonly("top_logprobs", &TokenEvent::top_logprobs)
      .def_readonly("hypotheses", &TokenEvent::hypotheses)
      .def_property_readonly("finished", [](const TokenEvent& e) { return e.reason != FinishReason::kNone; })
      .def_property_readonly("reason", &reason_name)
      .def_property_readonly("error",
                             [](const TokenEvent& e) { return e.error ? make_exception(*e.error) : py::none(); });

  py::class_<InstructionProfile>(m, "InstructionProfile", "An instruction of a step; ops/work.h says what counts.")
      .def_readonly("op", &InstructionProfile::op)
      .def_readonly("seconds", &InstructionProfile::seconds)
      .def_property_readonly("bytes", [](const InstructionProfile& p) { return p.work.bytes; })
      .def_property_readonly("operations", [](const InstructionProfile& p) { return p.work.operations; })
      .def_property_readonly("arithmetic", [](const InstructionProfile& p) { return p.work.arithmetic; });
}

void bind_shortlist(py::module_& m) {
  py::class_<Shortlist, std::shared_ptr<Shortlist>>(m, "Shortlist", "Of what each text's translation is made.")
      .def(py::init(&make_shortlist), py::arg("data"), py::arg("name"), py::kw_only(), py::arg("source_vocab"),
           py::arg("target_vocab"), py::arg("shared"), py::arg("eos_ids"), py::arg("unk_id") = -1)
      .def("covers", &Shortlist::covers, py::arg("source"), "Whether no token of a text is unknown.")
      .def(
          "candidates",
          [](const Shortlist& shortlist, const std::vector<int32_t>& source) { return shortlist.candidates(source); },
          py::arg("source"), "The tokens that may translate a text of these, ascending.");
}

using EngineClass = py::class_<Engine, std::shared_ptr<Engine>>;

void bind_add(EngineClass& engine) {
  engine.def("add", &add, py::arg("prompt"), py::kw_only(), py::arg("n") = 1, py::arg("max_tokens"),
             py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"),
             py::arg("repetition_penalty") = 1.0f, py::arg("presence_penalty") = 0.0f,
             py::arg("frequency_penalty") = 0.0f, py::arg("logprobs") = -1, py::arg("seed"), py::arg("ignore_eos"),
             py::arg("stop_ids"), py::arg_v("constraints", Constraints(), "..."),
             py::arg_v("beams", BeamParams(), "..."), py::arg("source") = std::vector<int32_t>{},
             py::call_guard<py::gil_scoped_release>(),
             "The numbers of n requests, completions of one prompt; one for a beam search.");
}

}  // namespace

void bind_engine(py::module_& m) {
  bind_request(m);
  bind_events(m);
  bind_shortlist(m);
  EngineClass engine(m, "Engine");
  bind_add(engine);
  const py::call_guard<py::gil_scoped_release> without_gil;
  engine
      .def(py::init(&make_engine), py::arg("program"), py::arg("pool"), py::kw_only(), py::arg("isa"),
           py::arg("context"), py::arg("max_batch"), py::arg("prefill_chunk"), py::arg("kv_dtype") = "f32",
           py::arg("prefix_cache") = true, py::arg("encoder") = nullptr, py::arg("shortlist") = nullptr)
      .def("step", [](Engine& engine) { return interruptible([&] { return engine.step(python_signal); }); })
      .def("cancel", &Engine::cancel, py::arg("request"), without_gil)
      .def("logits", &logits, py::arg("token_ids"), py::arg("source") = std::vector<int32_t>{},
           "float32 [n_tokens, vocab_size]")
      .def("observe", &observe, py::arg("token_ids"), py::arg("values"), py::arg("source") = std::vector<int32_t>{},
           "The logits of a prompt, and for each value of the program float32 [n_tokens, width]; quantised rows as "
           "floats.")
      .def("profile_step", &profile_step,
           "step() beside an InstructionProfile for each instruction of its programs: the encoder's, if it read, come "
           "first.")
      .def("score", &score, py::arg("token_ids"),
           "float32 [n_tokens - 1]: the log probability of each token after the first, given those before.")
      .def("idle", &Engine::idle, without_gil)
      .def_property_readonly("isa", &Engine::isa)
      .def_property_readonly("kv_dtype", [](const Engine& engine) { return kv_type_name(engine.kv_type()); })
      .def_property_readonly("kv_bytes", &Engine::kv_bytes)
      .def_property_readonly("n_blocks", &Engine::n_blocks)
      .def_property_readonly("n_free_blocks", &Engine::n_free_blocks)
      .def_property_readonly("n_source_blocks", &Engine::n_source_blocks)
      .def_property_readonly("n_free_source_blocks", &Engine::n_free_source_blocks)
      .def_property_readonly("n_cached_tokens", &Engine::n_cached_tokens);
}

}  // namespace jiffy
