//! Says how an extension module is linked: on macOS its undefined symbols have to be allowed.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
