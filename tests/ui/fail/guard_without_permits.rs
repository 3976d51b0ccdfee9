//! A guard in a `static` is checked when the program is compiled.

use onelane::EndpointGuard;

static GUARD: EndpointGuard = EndpointGuard::builder("report").permits(0).build();

fn main() {
    let _ = &GUARD;
}
