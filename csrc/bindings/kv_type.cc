#include "base/error.h"
#include "bindings/bindings.h"
#include "kernels/cpu/kv_head.h"

namespace jiffy {
namespace {

constexpr std::pair<const char*, KvType> kKvTypes[] = {
    {"f32", KvType::kF32}, {"bf16", KvType::kBf16}, {"int8", KvType::kInt8}};

}  // namespace

KvType parse_kv_type(const std::string& name) {
  for (const auto& [known, type] : kKvTypes) {
    if (name == known) return type;
  }
  fail(ErrorKind::kParameter, "kv_dtype", "f32, bf16 or int8", name);
}

const char* kv_type_name(KvType type) {
  for (const auto& [name, known] : kKvTypes) {
    if (type == known) return name;
  }
  return "";
}

}  // namespace jiffy
