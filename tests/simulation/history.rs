//! A history as data: who takes part, what happens when, and which calls fail. It is made from a seed, replays exactly, and
//! shrinks by leaving parts of it out.

use std::time::Duration;

use fastrand::Rng;
use local::testing::calls::Fault;

/// One run of the simulation.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// Also decides how long each call takes.
    pub(crate) seed: u64,
    pub(crate) limits: Limits,
    /// A call to AWS takes up to two to the power of this, in milliseconds. Where calls take long, more happens between
    /// two of them.
    pub(crate) slowness: u32,
    pub(crate) machines: Vec<MachineSpec>,
    pub(crate) steps: Vec<Step>,
    /// What Linear posts while the machines come back at last.
    pub(crate) finale: Vec<Step>,
    /// What becomes of a call to AWS, by its number.
    pub(crate) faults: Vec<(u64, CallFault)>,
    /// What becomes of a request to a worker, or of an agent to the relay, by its number.
    pub(crate) losses: Vec<(u64, Loss)>,
    /// What becomes of a batch of messages, by its number.
    pub(crate) batches: Vec<(u64, BatchFault)>,
    /// What becomes of what is done at one place of the code.
    pub(crate) at_site: Option<AtSite>,
}

/// What becomes of the first calls or requests from one place of the code.
#[derive(Debug, Clone)]
pub(crate) struct AtSite {
    pub(crate) site: String,
    pub(crate) fault: SiteFault,
    /// How many of them.
    pub(crate) times: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum SiteFault {
    Call(CallFault),
    Request(Loss),
}

/// The settings of the relay, in seconds and deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) give_up: u64,
    pub(crate) give_up_4xx: u64,
    pub(crate) deliveries_in_backoff: u64,
}

/// A worker and the machine that it runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineSpec {
    pub(crate) kind: Kind,
    /// What it is like at the end, when nothing else goes wrong any more.
    pub(crate) at_last: AtLast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An edge-agent with an address.
    Agent,
    /// An edge-agent without one.
    PullAgent,
    /// A receiver of its own that gives receipts and does not pull.
    Receiver,
    /// One without receipts.
    PlainReceiver,
}

impl Kind {
    pub(crate) fn has_address(self) -> bool {
        self != Self::PullAgent
    }

    pub(crate) fn gives_receipts(self) -> bool {
        self != Self::PlainReceiver
    }

    pub(crate) fn pulls(self) -> bool {
        matches!(self, Self::Agent | Self::PullAgent)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtLast {
    There,
    Absent(Absence),
    Rejecting(u16),
}

/// What answers at the address of a machine that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Nothing: no connection is made.
    NoConnection,
    /// A connection is made, and there is no answer.
    Silence,
    /// A proxy or a stranger answers with this status.
    Page(u16),
}

/// How a machine that is there behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// It answers everything with this status, and how many seconds to wait.
    Rejects(u16, Option<u64>),
    /// It never answers.
    Stalls,
    /// The connection breaks for every second event, as that of a proxy does for what is too large.
    BreaksOff,
    /// It answers 410.
    Gone,
}

/// Something happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// How long after the step before.
    pub(crate) after: Duration,
    pub(crate) what: Action,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// Linear posts an event about this issue.
    Post(u8),
    /// Something happens to a machine.
    Machine(usize, Deed),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed {
    /// Its lid closes, or it dies.
    Leave(Absence),
    /// It is back, and starts its agent.
    Return,
    /// The agent says that it goes offline, and the machine leaves.
    GoOffline,
    /// It has another address.
    Move,
    /// The agent loses its registration and registers again under its name.
    Forget,
    /// It behaves like this from now on.
    Mood(Mood),
    /// The worker is removed by its own call, and registers again when the machine returns.
    Remove,
}

/// What becomes of a call to AWS.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CallFault {
    Fault(Fault),
    /// It takes this many milliseconds.
    Slow(u64),
    /// The function ends before the call.
    CrashBefore,
    /// The function ends after the call had its effect.
    CrashAfter,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    Request,
    Answer,
}

/// What becomes of a batch of messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BatchFault {
    /// It is processed, and then once more.
    Twice,
    /// It is processed, and nothing is deleted.
    NotDeleted,
}

const MINUTE: u64 = 60_000;

fn one_of<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

impl History {
    /// The history of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let machines: Vec<_> = (0..rng.usize(1..=3)).map(|_| machine(rng)).collect();
        let limits = Limits {
            give_up: one_of(rng, &[600, 1800, 6 * 3600]),
            give_up_4xx: one_of(rng, &[60, 300]),
            deliveries_in_backoff: rng.u64(1..=4),
        };
        let steps = steps(rng, &machines);
        let finale = burst(rng, 8);
        // A third of the histories has no faults at all: what goes wrong there has a simpler cause.
        let rate = one_of(rng, &[0, 0, 40, 15, 100]);
        Self {
            seed,
            limits,
            slowness: one_of(rng, &[4, 6, 8, 9]),
            steps,
            finale,
            faults: marks(rng, rate, call_fault),
            losses: marks(rng, rate, |rng| one_of(rng, &[Loss::Request, Loss::Answer])),
            batches: marks(rng, rate, |rng| {
                one_of(rng, &[BatchFault::Twice, BatchFault::NotDeleted])
            }),
            machines,
            at_site: None,
        }
    }

    /// Without any fault.
    pub(crate) fn without_faults(mut self) -> Self {
        self.faults.clear();
        self.losses.clear();
        self.batches.clear();
        self
    }

    /// How many parts can be left out.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
            + self.finale.len()
            + self.faults.len()
            + self.losses.len()
            + self.batches.len()
    }

    /// Without the parts at these indices. The steps that stay happen when they did.
    pub(crate) fn without(&self, from: usize, to: usize) -> Self {
        let mut at = 0;
        let mut is_kept = || {
            at += 1;
            !(from..to).contains(&(at - 1))
        };
        let mut less = self.clone();
        for (steps, all) in [
            (&mut less.steps, &self.steps),
            (&mut less.finale, &self.finale),
        ] {
            let mut waited = Duration::ZERO;
            steps.clear();
            for step in all {
                waited += step.after;
                if is_kept() {
                    let after = std::mem::take(&mut waited);
                    steps.push(Step { after, ..*step });
                }
            }
        }
        less.faults.retain(|_| is_kept());
        less.losses.retain(|_| is_kept());
        less.batches.retain(|_| is_kept());
        less
    }
}

fn machine(rng: &mut Rng) -> MachineSpec {
    let kind = one_of(
        rng,
        &[
            Kind::Agent,
            Kind::Agent,
            Kind::PullAgent,
            Kind::Receiver,
            Kind::PlainReceiver,
        ],
    );
    let at_last = match rng.u8(..6) {
        0 => AtLast::Absent(absence(rng, kind)),
        1 if kind.has_address() => AtLast::Rejecting(one_of(rng, &[400, 429, 500])),
        _ => AtLast::There,
    };
    MachineSpec { kind, at_last }
}

/// Who answers 200 without a receipt in place of a plain receiver cannot be told from it.
pub(crate) fn absence(rng: &mut Rng, kind: Kind) -> Absence {
    match rng.u8(..4) {
        0 => Absence::NoConnection,
        1 => Absence::Silence,
        _ if kind.gives_receipts() => {
            Absence::Page(one_of(rng, &[200, 200, 200, 401, 404, 410, 429, 500, 502]))
        }
        _ => Absence::Page(one_of(rng, &[404, 502, 503, 511, 530])),
    }
}

fn steps(rng: &mut Rng, machines: &[MachineSpec]) -> Vec<Step> {
    let (mut steps, mut later) = (Vec::new(), Vec::new());
    for at in 0..machines.len() {
        // Most workers are there before the first event.
        if rng.u8(..4) > 0 {
            let what = Action::Machine(at, Deed::Return);
            steps.push(Step {
                after: Duration::from_millis(rng.u64(..3_000)),
                what,
            });
        }
    }
    for _ in 0..rng.usize(5..22) {
        let after = match rng.u8(..8) {
            0 => rng.u64(..10 * MINUTE),
            1..3 => rng.u64(..MINUTE),
            3..5 => rng.u64(..5_000),
            _ => rng.u64(..60),
        };
        let what = if rng.u8(..5) < 3 {
            Action::Post(rng.u8(..5))
        } else {
            let at = rng.usize(..machines.len());
            let deed = deed(rng, machines[at].kind);
            if let Deed::Return = deed {
                // Events that come while a machine comes back are where an order is lost.
                later.extend(burst(rng, 5));
            }
            Action::Machine(at, deed)
        };
        steps.push(Step {
            after: Duration::from_millis(after),
            what,
        });
        steps.append(&mut later);
    }
    steps
}

/// Up to so many events, one soon after another.
fn burst(rng: &mut Rng, most: usize) -> Vec<Step> {
    (0..rng.usize(..=most))
        .map(|_| Step {
            after: Duration::from_millis(rng.u64(..120)),
            what: Action::Post(rng.u8(..5)),
        })
        .collect()
}

fn deed(rng: &mut Rng, kind: Kind) -> Deed {
    match rng.u8(..16) {
        0..4 => Deed::Leave(absence(rng, kind)),
        4..8 => Deed::Return,
        8 if kind.pulls() => Deed::GoOffline,
        9..11 => Deed::Move,
        11 => Deed::Forget,
        12 if rng.bool() => Deed::Remove,
        12 => Deed::Mood(Mood::Gone),
        13 => Deed::Mood(Mood::Well),
        _ => Deed::Mood(mood(rng)),
    }
}

fn mood(rng: &mut Rng) -> Mood {
    match rng.u8(..6) {
        0 => Mood::Stalls,
        1 | 2 => Mood::BreaksOff,
        3 => Mood::Well,
        _ => Mood::Rejects(
            one_of(rng, &[400, 401, 429, 500, 503]),
            one_of(rng, &[None, None, Some(1), Some(30), Some(3600)]),
        ),
    }
}

/// Marks about one of `every` numbers, none if it is zero.
fn marks<T>(rng: &mut Rng, every: u64, mut mark: impl FnMut(&mut Rng) -> T) -> Vec<(u64, T)> {
    let mut marks = Vec::new();
    let mut at = 0;
    while every > 0 && marks.len() < 60 {
        at += rng.u64(1..2 * every);
        marks.push((at, mark(rng)));
    }
    marks
}

fn call_fault(rng: &mut Rng) -> CallFault {
    let refused = |status, code| CallFault::Fault(Fault::Refused(status, code));
    match rng.u8(..10) {
        0 | 1 => CallFault::CrashBefore,
        2 | 3 => CallFault::CrashAfter,
        4 => CallFault::Fault(Fault::Unsent),
        5 | 6 => CallFault::Fault(Fault::AnswerLost),
        7 => refused(500, "InternalServerError"),
        8 => refused(400, "ThrottlingException"),
        _ => CallFault::Slow(rng.u64(100..6_000)),
    }
}
