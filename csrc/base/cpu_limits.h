#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace jiffy {

// What Linux says in text files about the CPUs of a process. `root` is "/" everywhere but in tests. A file that is
// missing or malformed sets no limit.

// One line of /proc/<pid>/cgroup: "hierarchy:controllers:path" (cgroups(7)). Version 2 names no controllers.
struct CgroupEntry {
  std::vector<std::string> controllers;
  std::filesystem::path path;  // normalised, relative to the mount
};

std::vector<CgroupEntry> parse_cgroup_entries(const std::string& text);

// "quota period" in microseconds, as in cpu.max; the share in CPUs. Infinity for "max", -1 or anything malformed.
double parse_cpu_quota(const std::string& text);

// The smallest CPU quota of the process's cgroups and all their ancestors, versions 1 and 2. Infinity without any.
double cgroup_cpu_quota(const std::filesystem::path& root);

// The number of cores that the logical `cpus` sit on, by /sys/devices/system/cpu/cpu*/topology. A CPU about which the
// system says nothing counts as a core.
int count_physical_cores(const std::vector<int>& cpus, const std::filesystem::path& root);

}  // namespace jiffy
