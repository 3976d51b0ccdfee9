//! The caller is inside of the guard and waits for the work: the call would wait for its own caller, so it is refused.

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

/// Each call inside of nothing but what it asks for.
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

/// Each call inside of all of them at once: a hop takes the outer scopes along.
#[test]
fn hop_takes_all_scopes_along() {
    for_all(&Hop::ALL, |world, hop, call| async move {
        let World { guard, keyed, flight, .. } = world;
        let work = move || hop.make(call, world);
        let all = guard.run(keyed.run(KEY, async { flight.run(KEY, work).await }));
        refused(own_error(all.await.unwrap().unwrap()))
    });
}

/// The run goes on in a task of its own: the permit, and the scope with it, are the task's.
#[test]
fn call_in_a_run_that_lost_its_caller_is_refused() {
    for_all(&Hop::ALL, |world, hop, call| async move {
        let World { guard, keyed, latch, .. } = world;
        let (sender, outcome) = tokio::sync::oneshot::channel();
        latch.send_replace(false);
        let work = async move { sender.send(hop.make(call, world).await).unwrap() };
        // Both guards, since the calls of one of them are acquired at once otherwise.
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
