//! A layer shares its guard with the routes, so it takes a `&'static` guard or an `Arc`.

use onelane::EndpointGuard;
use onelane::web::tower::GuardLayer;

fn main() {
    let guard = EndpointGuard::new("report");
    let _ = GuardLayer::new(guard);
}
