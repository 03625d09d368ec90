#include "cpu.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace raceline {

#if defined(__x86_64__)

namespace {

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
    Registers r;
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);  // leaves zeros where there is none
    return r;
}

// Which register files the operating system saves when it switches tasks (XCR0).
std::uint64_t saved_registers() {
    constexpr unsigned osxsave = 1u << 27;
    if (!(cpuid(1).ecx & osxsave)) return 0;
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (std::uint64_t(high) << 32) | low;
}

constexpr int tile_data = 18;  // XFEATURE_XTILEDATA

// Tiles need the kernel's consent besides XCR0; asking whether it would consent changes nothing.
bool kernel_offers_tiles() {
#if defined(__linux__)
    constexpr int get_supported = 0x1021;  // ARCH_GET_XCOMP_SUPP, Linux 5.16
    std::uint64_t mask = 0;
    return syscall(SYS_arch_prctl, get_supported, &mask) == 0 && (mask >> tile_data & 1);
#else
    return false;
#endif
}

// Intel SDM vol. 2A, CPUID; AMD64 APM vol. 3, appendix E.
constexpr std::uint64_t none = 0, ymm = 0x6, zmm = 0xe6, tiles = 0x60000;
struct Feature {
    const char* name;
    unsigned leaf, subleaf;
    unsigned Registers::* word;
    int bit;
    std::uint64_t state;  // what XCR0 must hold
};
constexpr Feature features[] = {
    {"sse2", 1, 0, &Registers::edx, 26, none},
    {"sse4_2", 1, 0, &Registers::ecx, 20, none},
    {"avx", 1, 0, &Registers::ecx, 28, ymm},
    {"f16c", 1, 0, &Registers::ecx, 29, ymm},
    {"fma", 1, 0, &Registers::ecx, 12, ymm},
    {"avx2", 7, 0, &Registers::ebx, 5, ymm},
    {"avx_vnni", 7, 1, &Registers::eax, 4, ymm},
    {"avx_vnni_int8", 7, 1, &Registers::edx, 4, ymm},
    {"avx512f", 7, 0, &Registers::ebx, 16, zmm},
    {"avx512dq", 7, 0, &Registers::ebx, 17, zmm},
    {"avx512bw", 7, 0, &Registers::ebx, 30, zmm},
    {"avx512vl", 7, 0, &Registers::ebx, 31, zmm},
    {"avx512_vnni", 7, 0, &Registers::ecx, 11, zmm},
    {"avx512_bf16", 7, 1, &Registers::eax, 5, zmm},
    {"avx512_fp16", 7, 0, &Registers::edx, 23, zmm},
    {"amx_tile", 7, 0, &Registers::edx, 24, tiles},
    {"amx_int8", 7, 0, &Registers::edx, 25, tiles},
    {"amx_bf16", 7, 0, &Registers::edx, 22, tiles},
    {"amx_fp16", 7, 1, &Registers::eax, 21, tiles},
};

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> found;
    const std::uint64_t saved = saved_registers();
    const bool may_use_tiles = kernel_offers_tiles();
    for (const Feature& f : features) {
        const bool present = cpuid(f.leaf, f.subleaf).*f.word >> f.bit & 1;
        const bool allowed = (saved & f.state) == f.state && (f.state != tiles || may_use_tiles);
        if (present && allowed) found.emplace_back(f.name);
    }
    return found;
}

std::string brand() {
    if (cpuid(0x80000000).eax < 0x80000004) return "";
    std::array<char, 49> text{};
    for (unsigned i = 0; i < 3; ++i) {
        const Registers r = cpuid(0x80000002 + i);
        std::memcpy(text.data() + 16 * i, &r, 16);
    }
    return text.data();
}

std::vector<CacheInfo> caches() {
    std::vector<CacheInfo> found;
    // Intel lists its caches in leaf 4, AMD in 0x8000001d with the same layout where topology
    // extensions are on.
    constexpr unsigned topology_extensions = 1u << 22;
    const bool amd = cpuid(0x80000000).eax >= 0x8000001d && (cpuid(0x80000001).ecx & topology_extensions);
    for (unsigned i = 0; i < 16; ++i) {
        const Registers r = cpuid(amd ? 0x8000001d : 4, i);
        const unsigned type = r.eax & 31;
        if (type == 0 || type > 3) break;
        const std::int64_t ways = (r.ebx >> 22) + 1, partitions = (r.ebx >> 12 & 0x3ff) + 1,
                           line_bytes = (r.ebx & 0xfff) + 1, sets = std::int64_t(r.ecx) + 1;
        const char* kinds[] = {"", "data", "instruction", "unified"};
        found.push_back({int(r.eax >> 5 & 7), kinds[type], ways * partitions * line_bytes * sets,
                         int(r.eax >> 14 & 0xfff) + 1});
    }
    return found;
}

bool enable_tiles() {
#if defined(__linux__)
    constexpr int request = 0x1023;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return false;
#endif
}

#else  // not x86-64

namespace {
#if defined(__aarch64__) && defined(__linux__)
// Bits of the auxiliary vector, Linux Documentation/arch/arm64/elf_hwcaps.rst. Spelt out here because older
// kernel headers lack the newer names.
struct Feature {
    const char* name;
    unsigned long vector;
    int bit;
};
constexpr Feature features[] = {
    {"neon", AT_HWCAP, 1},   {"fp16", AT_HWCAP, 10},  {"dotprod", AT_HWCAP, 20}, {"sve", AT_HWCAP, 22},
    {"sve2", AT_HWCAP2, 1},  {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14},   {"sme", AT_HWCAP2, 23},
};
#endif
}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> found;
#if defined(__aarch64__) && defined(__linux__)
    for (const Feature& f : features)
        if (getauxval(f.vector) >> f.bit & 1) found.emplace_back(f.name);
#elif defined(__aarch64__)
    found.emplace_back("neon");  // every 64-bit ARM CPU has it
#endif
    return found;
}

std::string brand() { return ""; }
std::vector<CacheInfo> caches() { return {}; }
bool enable_tiles() { return false; }

#endif

bool has_instruction_set(const std::string& name) {
    const auto sets = instruction_sets();
    return std::find(sets.begin(), sets.end(), name) != sets.end();
}

}  // namespace raceline
