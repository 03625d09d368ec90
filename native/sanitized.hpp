// What AddressSanitizer does not see by itself, for builds with it (RACELINE_SANITIZE): loads and stores of parts of
// vectors, which become masked instructions, and the ends of arrays that share one piece of memory. Of other builds
// nothing here is a part.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#define RACELINE_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RACELINE_SANITIZED 1
#endif
#endif

#if defined(RACELINE_SANITIZED)
#include <sanitizer/asan_interface.h>
#endif

namespace raceline {

#if defined(RACELINE_SANITIZED)
constexpr bool sanitized = true;
// Reports where any of these bytes must not be touched.
inline void check_reach(const void* at, std::size_t bytes) {
    if (void* bad = __asan_region_is_poisoned(const_cast<void*>(at), bytes)) (void)*static_cast<volatile char*>(bad);
}
inline void forbid(const void* at, std::size_t bytes) { __asan_poison_memory_region(at, bytes); }
inline void allow(const void* at, std::size_t bytes) { __asan_unpoison_memory_region(at, bytes); }
#else
constexpr bool sanitized = false;
inline void check_reach(const void*, std::size_t) {}
inline void forbid(const void*, std::size_t) {}
inline void allow(const void*, std::size_t) {}
#endif

}  // namespace raceline
