//! Each place of the code that makes a call or a request, with each fault there.
//!
//! Invariant: nobody lists the places. They are what histories without faults do, so that a new one is among them.

use std::collections::{BTreeMap, BTreeSet};

use local::testing::calls::Fault;
use local::testing::place::place;
use parking_lot::Mutex;

use crate::history::{AtSite, CallFault, History, Loss, SiteFault};
use crate::run;

/// Where a call or a request comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// A call to AWS: the function, the action, and what the call does.
    Call(String),
    /// A request of the relay to a worker or to Linear, or of an agent to the relay.
    Request(String),
}

/// More than the AWS SDK makes attempts.
const PERSISTING: u32 = 4;

/// What a history does at which place, and what becomes of it at one of them.
#[derive(Debug)]
pub(crate) struct Sites {
    seen: Mutex<BTreeSet<Site>>,
    fault: Mutex<Option<AtSite>>,
}

impl Sites {
    pub(crate) fn new(fault: Option<AtSite>) -> Self {
        Self {
            seen: Mutex::default(),
            fault: Mutex::new(fault),
        }
    }

    /// What becomes of a call.
    pub(crate) fn call(&self, function: &str, target: &str, body: &[u8]) -> Option<CallFault> {
        let site = place(function, target, body);
        match self.at(&site) {
            Some(SiteFault::Call(fault)) => Some(fault),
            _ => {
                self.seen.lock().insert(Site::Call(site));
                None
            }
        }
    }

    /// What becomes of a request.
    pub(crate) fn request(&self, what: &str) -> Option<Loss> {
        match self.at(what) {
            Some(SiteFault::Request(loss)) => Some(loss),
            _ => {
                self.seen.lock().insert(Site::Request(what.to_owned()));
                None
            }
        }
    }

    fn at(&self, site: &str) -> Option<SiteFault> {
        let mut at_site = self.fault.lock();
        let at_site = at_site
            .as_mut()
            .filter(|at| at.site == site && at.times > 0)?;
        at_site.times -= 1;
        Some(at_site.fault)
    }

    pub(crate) fn seen(&self) -> BTreeSet<Site> {
        self.seen.lock().clone()
    }
}

/// The histories with one fault each: from the first of so many that does something at a place.
pub(crate) fn histories(seeds: u64) -> anyhow::Result<Vec<History>> {
    let mut first = BTreeMap::new();
    for seed in 0..seeds {
        let history = History::new(seed).without_faults();
        for site in run::run(&history, None, false)?.sites {
            first.entry(site).or_insert(seed);
        }
    }
    let calls = first
        .keys()
        .filter(|site| matches!(site, Site::Call(_)))
        .count();
    println!(
        "{calls} places of calls to AWS, {} of requests",
        first.len() - calls
    );
    let mut histories = Vec::new();
    for (site, seed) in first {
        let (site, faults) = match site {
            Site::Call(site) => {
                let faults = call_faults().into_iter().map(SiteFault::Call);
                (site, faults.collect())
            }
            Site::Request(site) => {
                let losses = [Loss::Request, Loss::Answer].map(SiteFault::Request);
                (site, losses.to_vec())
            }
        };
        let of = |fault, times| History {
            at_site: Some(AtSite {
                site: site.clone(),
                fault,
                times,
            }),
            ..History::new(seed).without_faults()
        };
        for fault in faults {
            histories.push(of(fault, 1));
            let ends = matches!(
                fault,
                SiteFault::Call(CallFault::CrashBefore | CallFault::CrashAfter)
            );
            if !ends {
                histories.push(of(fault, PERSISTING));
            }
        }
    }
    Ok(histories)
}

fn call_faults() -> Vec<CallFault> {
    let refused = |status, code| CallFault::Fault(Fault::Refused(status, code));
    vec![
        CallFault::Fault(Fault::Unsent),
        CallFault::Fault(Fault::AnswerLost),
        CallFault::Fault(Fault::Partly),
        refused(500, "InternalServerError"),
        refused(400, "ThrottlingException"),
        refused(400, "ProvisionedThroughputExceededException"),
        CallFault::Slow(6_000),
        CallFault::CrashBefore,
        CallFault::CrashAfter,
    ]
}
