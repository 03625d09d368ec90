#include "kernel_loop.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include "cpu.hpp"

namespace raceline {
namespace {

// Every 64-bit x86 has this one: no fused multiply-add, but a rate to compute with.
KERNEL(fp32_sse2, , float, _mm_setzero_ps(), _mm_set1_ps(0.5f), _mm_set1_ps(0.5f),
       _mm_add_ps(s, _mm_mul_ps(x, y)))

KERNEL(fp32_avx2, [[gnu::target("avx2,fma")]], float, _mm256_setzero_ps(), _mm256_set1_ps(0.5f),
       _mm256_set1_ps(0.5f), _mm256_fmadd_ps(x, y, s))

KERNEL(fp32_avx512, [[gnu::target("avx512f")]], float, _mm512_setzero_ps(), _mm512_set1_ps(0.5f),
       _mm512_set1_ps(0.5f), _mm512_fmadd_ps(x, y, s))

// Without VNNI: bytes to 16-bit pairs, pairs to 32-bit sums, three instructions in all.
KERNEL(int8_avx2, [[gnu::target("avx2")]], std::int32_t, _mm256_setzero_si256(), _mm256_set1_epi8(3),
       _mm256_set1_epi8(2),
       _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1))))

KERNEL(int8_avx512, [[gnu::target("avx512bw")]], std::int32_t, _mm512_setzero_si512(),
       _mm512_set1_epi32(0x03030303), _mm512_set1_epi32(0x02020202),
       _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(x, y), _mm512_set1_epi16(1))))

KERNEL(int8_avx_vnni, [[gnu::target("avx2,avxvnni")]], std::int32_t, _mm256_setzero_si256(),
       _mm256_set1_epi8(3), _mm256_set1_epi8(2), _mm256_dpbusd_avx_epi32(s, x, y))

KERNEL(int8_avx512_vnni, [[gnu::target("avx512f,avx512vnni")]], std::int32_t, _mm512_setzero_si512(),
       _mm512_set1_epi32(0x03030303), _mm512_set1_epi32(0x02020202), _mm512_dpbusd_epi32(s, x, y))

constexpr int two_bf16_halves = 0x3f003f00;  // 0.5 and 0.5

KERNEL(bf16_avx512, [[gnu::target("avx512f,avx512bf16")]], float, _mm512_setzero_ps(),
       _mm512_set1_epi32(two_bf16_halves), _mm512_set1_epi32(two_bf16_halves),
       _mm512_dpbf16_ps(s, (__m512bh)x, (__m512bh)y))

// AMX: of eight tiles six are sums, one holds x (16 rows of 64 bytes), one y. A product takes 52 cycles and
// one starts every 16, so four sums would do.
constexpr int tile_sums = 6, tile_rows = 16, tile_row_bytes = 64, tile_words = tile_rows * 16;

struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "the layout is the CPU's");

struct alignas(64) Tile {
    std::int32_t words[tile_words];
};

[[gnu::target("amx-tile")]] void load_tiles(std::int32_t x_word, std::int32_t y_word) {
    static const TileConfig config;
    Tile x, y;
    for (auto& w : x.words) w = x_word;
    for (auto& w : y.words) w = y_word;
    // gcc's tile intrinsics do not say that they read memory; without this the stores above would be dropped.
    asm volatile("" : : "r"(x.words), "r"(y.words), "r"(&config) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
    _tile_loadd(6, x.words, tile_row_bytes);
    _tile_loadd(7, y.words, tile_row_bytes);
}

template <typename T>
[[gnu::target("amx-tile")]] double total_of_tiles() {
    Tile out[tile_sums];
    _tile_stored(0, out[0].words, tile_row_bytes);
    _tile_stored(1, out[1].words, tile_row_bytes);
    _tile_stored(2, out[2].words, tile_row_bytes);
    _tile_stored(3, out[3].words, tile_row_bytes);
    _tile_stored(4, out[4].words, tile_row_bytes);
    _tile_stored(5, out[5].words, tile_row_bytes);
    _tile_release();
    return total<T>(out, sizeof out);
}

[[gnu::target("amx-tile,amx-int8")]] double int8_amx(std::int64_t iterations) {
    load_tiles(0x03030303, 0x02020202);
    for (std::int64_t i = 0; i < iterations; ++i) {
        _tile_dpbusd(0, 6, 7); _tile_dpbusd(1, 6, 7); _tile_dpbusd(2, 6, 7);
        _tile_dpbusd(3, 6, 7); _tile_dpbusd(4, 6, 7); _tile_dpbusd(5, 6, 7);
    }
    return total_of_tiles<std::int32_t>();
}

[[gnu::target("amx-tile,amx-bf16")]] double bf16_amx(std::int64_t iterations) {
    load_tiles(two_bf16_halves, two_bf16_halves);
    for (std::int64_t i = 0; i < iterations; ++i) {
        _tile_dpbf16ps(0, 6, 7); _tile_dpbf16ps(1, 6, 7); _tile_dpbf16ps(2, 6, 7);
        _tile_dpbf16ps(3, 6, 7); _tile_dpbf16ps(4, 6, 7); _tile_dpbf16ps(5, 6, 7);
    }
    return total_of_tiles<float>();
}

}  // namespace

const std::vector<Kernel>& compiled_kernels() {
    constexpr double ymm = 2.0 * sums * 32, zmm = 2.0 * sums * 64, tile = 2.0 * tile_sums * tile_words * 64;
    static const std::vector<Kernel> all = {
        {"fp32", "sse2", ymm / 8, 0.25, fp32_sse2},
        {"fp32", "fma", ymm / 4, 0.25, fp32_avx2},
        {"fp32", "avx512f", zmm / 4, 0.25, fp32_avx512},
        {"int8", "avx2", ymm, 6, int8_avx2},
        {"int8", "avx512bw", zmm, 6, int8_avx512},
        {"int8", "avx_vnni", ymm, 6, int8_avx_vnni},
        {"int8", "avx512_vnni", zmm, 6, int8_avx512_vnni},
        {"int8", "amx_int8", tile, 6, int8_amx},
        {"bf16", "avx512_bf16", zmm / 2, 0.25, bf16_avx512},
        {"bf16", "amx_bf16", tile / 2, 0.25, bf16_amx},
    };
    return all;
}

namespace {

void triad_sse2(float* a, const float* b, const float* c, std::int64_t count) {
    const __m128 scale = _mm_set1_ps(triad_scale);
    for (std::int64_t i = 0; i < count; i += 4)
        _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_mul_ps(scale, _mm_load_ps(c + i))));
}

// One store fills a cache line, which moves 8 % more.
[[gnu::target("avx512f")]] void triad_avx512(float* a, const float* b, const float* c, std::int64_t count) {
    const __m512 scale = _mm512_set1_ps(triad_scale);
    for (std::int64_t i = 0; i < count; i += 16)
        _mm512_stream_ps(a + i, _mm512_fmadd_ps(scale, _mm512_load_ps(c + i), _mm512_load_ps(b + i)));
}

}  // namespace

void triad(float* a, const float* b, const float* c, std::int64_t count) {
    static const bool wide = has_instruction_set("avx512f");
    (wide ? triad_avx512 : triad_sse2)(a, b, c, count);
    _mm_sfence();
}

// 32-bit multiplications: three cycles on every Intel core since 2008 and every Zen. Additions will not do,
// for newer cores fold some away and take more than a cycle for others.
const int chain_cycles = 3 * 64;

void run_chain(std::int64_t iterations) {
    std::int32_t x = 1;
    const std::int32_t y = 3;
    for (std::int64_t i = 0; i < iterations; ++i)
        for (int k = 0; k < chain_cycles / 3; ++k) asm volatile("imul %1, %0" : "+r"(x) : "r"(y) : "cc");
}

}  // namespace raceline

#endif
