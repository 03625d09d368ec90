// What the CPU is: instruction sets the operating system lets a program use, its name, its caches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace raceline {

struct CacheInfo {
    int level;
    std::string kind;  // "data", "instruction" or "unified"
    std::int64_t size_bytes;
    int shared_by;  // logical CPUs that use this one; 0 where unknown
};

// Names as in /proc/cpuinfo on x86; on ARM the architecture's own words (neon, dotprod, i8mm, bf16, ...).
// A set is listed only where the CPU has it and the operating system saves its registers.
std::vector<std::string> instruction_sets();
bool has_instruction_set(const std::string& name);

// The CPU's own name; empty where the architecture has no instruction for it.
std::string brand();

// Caches as the CPU itself reports them; empty where the architecture has no instruction for it.
std::vector<CacheInfo> caches();

// Ask the kernel for AMX tile registers for this process; false where it has none.
bool enable_tiles();

}  // namespace raceline
