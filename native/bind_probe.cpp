// The machine probe as Python sees it; src/raceline/_native.pyi says the same in types.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu.hpp"
#include "kernels.hpp"
#include "probe.hpp"

namespace nb = nanobind;

namespace raceline {
namespace {

bool runs_here(const Kernel& kernel) { return has_instruction_set(kernel.instruction_set); }

const Kernel& find(const std::string& precision, const std::string& instruction_set) {
    for (const Kernel& k : compiled_kernels())
        if (k.precision == precision && k.instruction_set == instruction_set && runs_here(k)) return k;
    throw nb::key_error((precision + " " + instruction_set).c_str());
}

std::vector<std::pair<std::string, std::string>> kernel_names() {
    std::vector<std::pair<std::string, std::string>> names;
    for (const Kernel& k : compiled_kernels())
        if (runs_here(k)) names.emplace_back(k.precision, k.instruction_set);
    return names;
}

std::pair<double, double> kernel_totals(const std::string& precision, const std::string& instruction_set,
                                        std::int64_t iterations) {
    const Kernel& kernel = find(precision, instruction_set);
    allow(kernel);
    return {kernel.run(iterations), double(iterations) * kernel.ops / 2 * kernel.product};
}

std::vector<std::tuple<int, std::string, std::int64_t, int>> cache_rows() {
    std::vector<std::tuple<int, std::string, std::int64_t, int>> rows;
    for (const CacheInfo& c : caches()) rows.emplace_back(c.level, c.kind, c.size_bytes, c.shared_by);
    return rows;
}

}  // namespace

void bind_probe(nb::module_& module) {
    using nb::arg;
    using Quiet = nb::call_guard<nb::gil_scoped_release>;
    module.def("instruction_sets", &instruction_sets);
    module.def("brand", &brand);
    module.def("caches", &cache_rows);
    module.def("kernels", &kernel_names);
    module.def("kernel_totals", &kernel_totals, arg("precision"), arg("instruction_set"), arg("iterations"));
    module.def("measure_clock_hz", &measure_clock_hz, Quiet());
    module.def(
        "measure_ops_per_s",
        [](const std::string& precision, const std::string& instruction_set, const std::vector<int>& cpus) {
            return measure_ops_per_s(find(precision, instruction_set), cpus);
        },
        arg("precision"), arg("instruction_set"), arg("cpus"), Quiet());
    module.def("measure_triad_bytes_per_s", &measure_triad_bytes_per_s, arg("size_bytes"), arg("cpus"),
               Quiet());
}

}  // namespace raceline
