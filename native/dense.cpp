#include "dense.hpp"

#include <stdexcept>

#include "cpu.hpp"

namespace raceline {

const DenseKernels& dense_plain();
#if defined(__x86_64__)
const DenseKernels& dense_avx2();
const DenseKernels& dense_avx512();
#endif

const std::vector<const DenseKernels*>& dense_kernels() {
    static const std::vector<const DenseKernels*> sets = [] {
        std::vector<const DenseKernels*> found;
#if defined(__x86_64__)
        const bool avx2 = has_instruction_set("avx2") && has_instruction_set("fma");
        if (avx2 && has_instruction_set("avx512f") && has_instruction_set("avx512dq"))
             found.push_back(&dense_avx512());
        if (avx2) found.push_back(&dense_avx2());
#endif
        found.push_back(&dense_plain());
        return found;
    }();
    return sets;
}

const DenseKernels& dense_kernels(const std::string& name) {
    for (const DenseKernels* set : dense_kernels())
        if (name.empty() || name == set->name) return *set;
    throw std::invalid_argument("this CPU has no dense kernels called " + name);
}

}  // namespace raceline
