#include "quant/format.h"

#include "base/error.h"

namespace jiffy {
namespace {

struct Named {
  const char* name;
  int bits, group;
};
constexpr Named kNamed[] = {{"f32", 32, 1}, {"bf16", 16, 2},  {"i8", 8, 128},    {"i8g32", 8, 32},
                            {"i4", 4, 32},  {"i4g64", 4, 64}, {"i4g128", 4, 128}};

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::string WeightFormat::name() const {
  for (const Named& named : kNamed) {
    if (named.bits == bits && named.group == group) return named.name + std::string(offset == Offset::kNone ? "" : "a");
  }
  return "i" + std::to_string(bits) + "g" + std::to_string(group) + (offset == Offset::kNone ? "" : "a");
}

const std::vector<std::string>& format_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Named& named : kNamed) {
      all.emplace_back(named.name);
      if (named.bits < 16) all.push_back(std::string(named.name) + "a");
    }
    return all;
  }();
  return names;
}

WeightFormat parse_format(std::string_view name, const std::string& where) {
  for (const Named& named : kNamed) {
    const WeightFormat format{.bits = named.bits, .group = named.group};
    if (name == named.name) return format;
    if (format.quantized() && name == std::string(named.name) + "a") {
      return {.bits = named.bits, .group = named.group, .offset = Offset::kMin};
    }
  }
  fail(ErrorKind::kParameter, where, "one of " + listed(format_names()), "\"" + std::string(name) + "\"");
}

}  // namespace jiffy
