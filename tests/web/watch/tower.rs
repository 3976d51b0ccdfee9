//! The watch layer of tower, in front of a service that takes no HTTP requests.

use std::convert::Infallible;

use onelane::web::tower::WatchLayer;
use support::inbox::Inbox;
use support::runtimes::multi_thread;
use support::waiting::{Gate, MS};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[test]
fn service_is_reported_with_its_label_in_its_call_and_in_its_future() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let gates = [Gate::default(), Gate::default()];
    let [in_call, in_future] = [gates[0].wait(), gates[1].wait()];
    let service = service_fn(move |number: u32| {
        in_call.block();
        let wait = in_future.clone();
        async move {
            // The worker parks before it blocks again.
            tokio::time::sleep(MS).await;
            wait.block();
            Ok::<_, Infallible>(number * 2)
        }
    });
    let service = ServiceBuilder::new().layer(WatchLayer::new("double")).service(service);
    let answer = runtime.spawn(service.oneshot(21));
    for (index, gate) in gates.iter().enumerate() {
        assert_eq!(inbox.wait_for(index + 1)[index].label(), Some("double"));
        gate.open();
    }
    assert_eq!(runtime.block_on(answer).unwrap(), Ok(42));
}
