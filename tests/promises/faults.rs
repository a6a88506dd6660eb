//! Faults between programs, on sockets: each place where a function calls AWS, Linear or a worker, with each fault there, the first
//! time and the first four times, which is more often than the AWS SDK tries. The functions are processes with the HTTP client, time
//! limits and retries that they have on Lambda. The policy alone is in the simulation, with many more histories.

mod cloud;
mod history;
mod scripts;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use local::testing::calls::Fault;
use reqwest::Url;
use tokio::task::{LocalSet, spawn_local};

use crate::harness::linear;
use crate::harness::used::{USED, noted};

use history::Linear;
use scripts::Script;
use wire::{Place, Plan, What};

/// More than the AWS SDK makes attempts.
const PERSISTING: u32 = 4;
/// Histories at once. They wait more than they compute.
const SIDE_BY_SIDE: usize = 6;
/// Longer than an attempt of the AWS SDK may take, and than a delivery may take here.
const SLOW: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_a_fault_on_the_wire() {
    LocalSet::new().run_until(campaign(151)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn nothing_is_lost_by_hundreds_of_faults_on_the_wire() {
    LocalSet::new().run_until(campaign(1)).await;
}

/// No place may be without faults because no history here comes there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs what the other promises note: .ci/run"]
async fn each_place_that_any_promise_has_seen_is_tried() {
    // On one machine the relay itself does what Lambda does for `deliver`.
    const OF_LAMBDA: [&str; 2] = ["deliver: ReceiveMessage", "deliver: DeleteMessageBatch"];
    let tried = places(&start_linear().await).await;
    let is_untried = |place: &String| {
        !OF_LAMBDA.contains(&&**place) && !tried.contains_key(&Place::Call(place.clone()))
    };
    let untried: BTreeSet<_> = (noted(USED).iter())
        .filter_map(|entry| entry["place"].as_str().map(str::to_owned))
        .filter(is_untried)
        .collect();
    assert!(untried.is_empty(), "{untried:#?}");
}

async fn start_linear() -> Linear {
    let (api, url) = linear().await;
    let url = Url::parse(&url).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    Linear { api, address }
}

/// The places of the histories without faults, each with the first history that comes there.
async fn places(linear: &Linear) -> BTreeMap<Place, Script> {
    let mut places = BTreeMap::new();
    for script in Script::ALL {
        let (seen, _) = history::run(script, linear.clone(), None).await;
        for place in seen {
            places.entry(place).or_insert(script);
        }
    }
    places
}

/// Runs one of `every` histories with one fault; with `ONLY_FAULTS`, of those whose plan, as it is printed, contains one of these texts,
/// between which there is a `|`.
async fn campaign(every: usize) {
    let linear = start_linear().await;
    let places = places(&linear).await;
    let calls = places
        .keys()
        .filter(|place| matches!(place, Place::Call(_)))
        .count();
    let requests = places.len() - calls;
    let plans = places
        .into_iter()
        .flat_map(|(place, script)| plans(place).into_iter().map(move |plan| (plan, script)));
    let only = relay::config::environment("ONLY_FAULTS").unwrap_or_default();
    let is_one = |plan: &Plan| {
        only.split('|')
            .any(|text| format!("{plan:?}").contains(text))
    };
    let plans: Vec<_> = plans
        .filter(|(plan, _)| is_one(plan))
        .step_by(every)
        .collect();
    eprintln!(
        "{calls} places of calls to AWS, {requests} of requests: {} histories",
        plans.len()
    );
    let mut histories = futures::stream::iter(plans.into_iter().map(async |(plan, script)| {
        let run = spawn_local(history::run(script, linear.clone(), Some(plan.clone())));
        (plan, run.await)
    }))
    .buffer_unordered(SIDE_BY_SIDE);
    let (mut wrong, mut absent, mut run) = (Vec::new(), Vec::new(), 0);
    while let Some((plan, ended)) = histories.next().await {
        run += 1;
        match ended {
            Ok((_, left)) if left < plan.times => {}
            Ok(_) => absent.push(plan),
            Err(error) => {
                eprintln!("{plan:?}: {error}");
                wrong.push(plan);
            }
        }
        if run % 100 == 0 {
            eprintln!("{run} histories");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Some calls are made only where something takes long, which is not the same in two histories.
    assert!(absent.len() * 10 <= run, "did not come: {absent:#?}");
}

/// Each fault at a place, once and persisting.
fn plans(place: Place) -> Vec<Plan> {
    let refused = |status, code| What::Fault(Fault::Refused(status, code));
    let mut faults = vec![
        What::Fault(Fault::Unsent),
        What::Fault(Fault::AnswerLost),
        What::Fault(Fault::Swallowed),
        What::Fault(Fault::Unanswered),
        What::Slow(SLOW),
        refused(500, "InternalServerError"),
    ];
    let mut ends = Vec::new();
    if let Place::Call(call) = &place {
        if call.contains("Batch") {
            faults.push(What::Fault(Fault::Partly));
        }
        faults.extend(if call.contains("Message") {
            [refused(400, "RequestThrottled"), refused(403, "OverLimit")]
        } else {
            [
                refused(400, "ThrottlingException"),
                refused(400, "ProvisionedThroughputExceededException"),
            ]
        });
        if call.contains("TransactWriteItems") {
            faults.push(refused(400, "TransactionCanceledException"));
        } else if ["UpdateItem", "PutItem", "DeleteItem"]
            .iter()
            .any(|action| call.contains(action))
        {
            faults.push(refused(400, "TransactionConflictException"));
        }
        ends.extend([What::KilledBefore, What::KilledAfter]);
    } else {
        faults.push(refused(429, "TooManyRequests"));
    }
    if matches!(&place, Place::Request(request) if request.starts_with("Linear")) {
        faults.push(refused(400, wire::RATELIMITED));
    }
    let twice = faults
        .iter()
        .flat_map(|what| [(*what, 1), (*what, PERSISTING)]);
    let ends = ends.into_iter().map(|what| (what, 1));
    twice
        .chain(ends)
        .map(|(what, times)| Plan {
            place: place.clone(),
            what,
            times,
        })
        .collect()
}
