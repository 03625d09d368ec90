// raceline._native: the compiled kernels. Each family has a file with a bind_NAME function, listed here.
#include <nanobind/nanobind.h>

namespace raceline {
void bind_dense(nanobind::module_& module);
void bind_int8(nanobind::module_& module);
void bind_net(nanobind::module_& module);
void bind_probe(nanobind::module_& module);
}

NB_MODULE(_native, module) {
    module.doc() = "Raceline's compiled kernels; use them through the rooms that own them.";
    raceline::bind_dense(module);
    raceline::bind_int8(module);
    raceline::bind_net(module);
    raceline::bind_probe(module);
}
