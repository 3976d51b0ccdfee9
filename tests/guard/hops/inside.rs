//! The caller is inside the guard and waits for the work. The call would wait for its own caller, so the call is
//! refused.

use onelane::FlightError;

use super::{Call, Hop, KEY, Outcome, World, for_all};

fn refused(outcome: Outcome) -> Outcome {
    match outcome {
        Err(kind) if kind == "WouldDeadlock" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Returns the error of the work itself.
fn own_error(outcome: Result<(), FlightError<String>>) -> Outcome {
    outcome.map_err(|error| error.failure().cloned().unwrap_or_else(|| format!("{error:?}")))
}

/// Each call is made inside only the guard or the flight that the call asks for.
#[test]
fn call_for_what_the_caller_holds_is_refused_after_every_hop() {
    for_all(&Hop::ALL, |world, hop, call| async move {
        let World { guard, keyed, flight, .. } = world;
        let work = hop.make(call, world);
        let outcome = match call {
            Call::Acquire | Call::AcquireBlocking | Call::Run | Call::RunToCompletion => guard.run(work).await.unwrap(),
            Call::KeyedAcquire
            | Call::KeyedAcquireBlocking
            | Call::KeyedAcquireAll
            | Call::KeyedRun
            | Call::KeyedRunToCompletion => keyed.run(KEY, work).await.unwrap(),
            Call::Flight => own_error(flight.run(KEY, || work).await),
        };
        refused(outcome)
    });
}

/// Each call is made inside both guards and the flight: a hop carries all outer scopes.
#[test]
fn hop_takes_all_scopes_along() {
    for_all(&Hop::ALL, |world, hop, call| async move {
        let World { guard, keyed, flight, .. } = world;
        let work = move || hop.make(call, world);
        let all = guard.run(keyed.run(KEY, async { flight.run(KEY, work).await }));
        refused(own_error(all.await.unwrap().unwrap()))
    });
}

/// The run continues in its own task, which owns the permit and the scope of the permit.
#[test]
fn call_in_a_run_that_lost_its_caller_is_refused() {
    for_all(&Hop::ALL, |world, hop, call| async move {
        let World { guard, keyed, latch, .. } = world;
        let (sender, outcome) = tokio::sync::oneshot::channel();
        latch.send_replace(false);
        let work = async move { sender.send(hop.make(call, world).await).unwrap() };
        // The work is inside both guards, because a call to a free guard would acquire its permit at once.
        let mut run =
            Box::pin(guard.run_to_completion(async move { keyed.run_to_completion(KEY, work).await.unwrap() }));
        assert!(futures::poll!(&mut run).is_pending());
        drop(run);
        assert_eq!(guard.stats().detached, 1);
        latch.send_replace(true);
        let outcome = outcome.await.unwrap();
        onelane::detached::drained().await;
        if call == Call::Flight { outcome } else { refused(outcome) }
    });
}
