//! One bad worker harms no other.

use std::time::{Duration, Instant};

use crate::harness::{Answer, Receiver, issue, relay};

#[tokio::test]
async fn a_worker_that_stalls_does_not_hold_up_another_one() {
    let relay = relay().set("DELIVERY_TIMEOUT_SECONDS", 20).start().await;
    let (bad, good) = (Receiver::start().await, Receiver::start().await);
    relay.register("bad", &bad.url()).await;
    relay.register("good", &good.url()).await;
    bad.answer([Answer::Stall(Duration::from_secs(60))]);
    let began = Instant::now();
    // The same issue again and again: each waits for the one before it, also where a batch holds it and a
    // stalled delivery together.
    for at in 0..20 {
        relay.post(&issue("i", at)).await;
        relay.post(&issue(&format!("other {at}"), 100 + at)).await;
    }
    good.wait_for(40).await;
    assert!(
        began.elapsed() < Duration::from_secs(18),
        "held up for {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_answer_without_end_is_read_no_further_than_needed() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    relay.register("one", &receiver.url()).await;
    receiver.answer([Answer::Endless]);
    let began = Instant::now();
    relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
    relay.settled().await;
    assert!(began.elapsed() < Duration::from_secs(9));
    assert_eq!(
        receiver.count(),
        1,
        "a 2xx is a success, however long its body is"
    );
}
