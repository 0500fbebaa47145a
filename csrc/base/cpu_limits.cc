#include "base/cpu_limits.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <sstream>

namespace jiffy {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

std::string read_text(const std::filesystem::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// Version 2 keeps both numbers in one file, version 1 has a file for each.
double directory_quota(const std::filesystem::path& directory) {
  const double version_1 =
      parse_cpu_quota(read_text(directory / "cpu.cfs_quota_us") + " " + read_text(directory / "cpu.cfs_period_us"));
  return std::min(version_1, parse_cpu_quota(read_text(directory / "cpu.max")));
}

// A container often sees the host's path but only its own directory, so levels that don't exist are passed over.
double smallest_quota(const std::filesystem::path& mount, const std::filesystem::path& path) {
  double smallest = directory_quota(mount);
  std::filesystem::path directory = mount;
  for (const auto& level : path) {
    directory /= level;
    smallest = std::min(smallest, directory_quota(directory));
  }
  return smallest;
}

}  // namespace

std::vector<CgroupEntry> parse_cgroup_entries(const std::string& text) {
  std::vector<CgroupEntry> entries;
  for (const std::string& line : split(text, '\n')) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    // A process outside its cgroup namespace has a path that begins with "/..": normalised, it ends at the root.
    const auto path = (std::filesystem::path("/") / line.substr(second + 1)).lexically_normal().relative_path();
    entries.push_back({split(line.substr(first + 1, second - first - 1), ','), path});
  }
  return entries;
}

double parse_cpu_quota(const std::string& text) {
  std::istringstream stream(text);
  double quota_us = 0;
  double period_us = 0;
  if (!(stream >> quota_us >> period_us) || quota_us <= 0 || period_us <= 0) return kUnlimited;
  return quota_us / period_us;
}

double cgroup_cpu_quota(const std::filesystem::path& root) {
  const std::filesystem::path mount = root / "sys/fs/cgroup";
  double smallest = kUnlimited;
  for (const CgroupEntry& entry : parse_cgroup_entries(read_text(root / "proc/self/cgroup"))) {
    const auto& names = entry.controllers;
    if (names.empty()) smallest = std::min(smallest, smallest_quota(mount, entry.path));
    if (std::find(names.begin(), names.end(), "cpu") == names.end()) continue;
    // Version 1 is mounted under its list of controllers, with a link from each name on most systems.
    for (const char* directory : {"cpu", "cpu,cpuacct", "cpuacct,cpu"}) {
      smallest = std::min(smallest, smallest_quota(mount / directory, entry.path));
    }
  }
  return smallest;
}

int count_physical_cores(const std::vector<int>& cpus, const std::filesystem::path& root) {
  std::set<std::string> cores;
  for (int cpu : cpus) {
    const std::string number = std::to_string(cpu);
    const std::string siblings =
        read_text(root / ("sys/devices/system/cpu/cpu" + number) / "topology/thread_siblings_list");
    cores.insert(siblings.empty() ? "cpu" + number : siblings);
  }
  return static_cast<int>(cores.size());
}

}  // namespace jiffy
