//! Where the time of one event goes, from its POST to the last worker's handler: each step of the functions and each call to AWS with
//! its beginning and end, and the arrivals at the workers, in one process.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use indicatif::ProgressBar;
use local::local_relay::Options;
use local::samples::Webhook;
use local::testing::calls::Calls;
use parking_lot::Mutex;
use plotters::prelude::*;

use crate::load::{Load, SECRET};
use crate::logs;
use crate::one_machine::{self, Busy};
use crate::payload::body;
use crate::steps;

const BODY: usize = 2_048;

/// What happened, and from when to when after the POST, in ms.
#[derive(Debug, Clone)]
struct Span {
    what: String,
    from: f64,
    to: f64,
}

type Noted = Arc<Mutex<Vec<(String, Instant, Instant)>>>;

/// Draws the event whose last delivery took the median time, of so many that went to so many workers after as many others.
pub(crate) async fn draw(
    workers: usize,
    in_files: bool,
    events: usize,
    directory: &Path,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    logs::count();
    let noted: Noted = Arc::default();
    let note = {
        let noted = Arc::clone(&noted);
        move |function: &'static str, action: &str, began: Instant| {
            (noted.lock()).push((format!("{function}: {action}"), began, Instant::now()));
        }
    };
    let data = tempfile::tempdir()?;
    let mut options = Options {
        calls: Calls::timed(Arc::new(note)),
        ..one_machine::options().await?
    };
    if in_files {
        options.storage = local::local_relay::Storage::Directory(data.path().to_owned());
    }
    let Busy {
        local, mut load, ..
    } = Busy::start(options, workers, BODY).await?;
    progress.set_length(2 * events as u64);
    for number in 0..events {
        load.one(number).await?;
        progress.inc(1);
    }
    let mut drawn = Vec::new();
    steps::watch();
    for number in events..2 * events {
        noted.lock().clear();
        steps::take();
        drawn.push(one(&mut load, number, &noted).await?);
        progress.inc(1);
    }
    local.stop().await;
    drawn.sort_by(|a, b| last(a).total_cmp(&last(b)));
    let median = drawn.swap_remove(events / 2);
    print(&median);
    std::fs::create_dir_all(directory)?;
    let kept = if in_files { "files" } else { "memory" };
    let file = directory.join(format!("timeline-{workers}-in-{kept}.svg"));
    plot(&median, &file)
        .map_err(|error| anyhow::anyhow!("cannot draw `{}`: {error}", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}

fn last(spans: &[Span]) -> f64 {
    let arrivals = spans.iter().filter(|span| span.what.starts_with("worker"));
    arrivals.map(|span| span.to).fold(0.0, f64::max)
}

/// Posts an event and waits until all workers have it, and what was begun has ended.
async fn one(load: &mut Load, number: usize, noted: &Noted) -> anyhow::Result<Vec<Span>> {
    let webhook = Webhook::signed(SECRET, body(number, BODY));
    let began = Instant::now();
    let answer = webhook.request(&load.client, &load.url).send().await?;
    let answered = Instant::now();
    answer.error_for_status()?;
    let mut spans = Vec::new();
    let ms = |at: Instant| at.saturating_duration_since(began).as_secs_f64() * 1e3;
    for worker in 1..=load.workers {
        let (_, at) = load.arrivals.recv().await.context("the receiver ended")?;
        let at = ms(at);
        spans.push(Span {
            what: format!("worker {worker}"),
            from: at,
            to: at,
        });
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    spans.push(Span {
        what: "webhook".to_owned(),
        from: 0.0,
        to: ms(answered),
    });
    let steps = steps::take().into_iter();
    let steps = steps.map(|step| (step.what, step.began, step.ended));
    for (what, from, to) in noted.lock().drain(..).chain(steps) {
        // A poll begins before the event.
        spans.push(Span {
            what,
            from: ms(from),
            to: ms(to),
        });
    }
    spans.sort_by(|a, b| a.to.total_cmp(&b.to));
    Ok(spans)
}

/// One line for each kind: how many there are, when the first began and ended, and when the last did.
fn print(spans: &[Span]) {
    let mut kinds: Vec<&str> = Vec::new();
    let kind = |span: &Span| {
        span.what
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .len()
    };
    for span in spans {
        let name = &span.what[..kind(span)];
        if !kinds.contains(&name) {
            kinds.push(name);
        }
    }
    println!("| what | how many | first begins, ms | first ends | last begins | last ends |");
    println!("|---|---:|---:|---:|---:|---:|");
    for name in kinds {
        let of: Vec<_> = (spans.iter())
            .filter(|span| &span.what[..kind(span)] == name)
            .collect();
        let least = |value: fn(&Span) -> f64| of.iter().map(|s| value(s)).fold(f64::MAX, f64::min);
        let most = |value: fn(&Span) -> f64| of.iter().map(|s| value(s)).fold(0.0, f64::max);
        println!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            name.trim(),
            of.len(),
            least(|s| s.from),
            least(|s| s.to),
            most(|s| s.from),
            most(|s| s.to),
        );
    }
}

fn plot(spans: &[Span], file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const ROW: u32 = 12;
    let rows = spans.len();
    let height = 90 + ROW * u32::try_from(rows)?;
    let root = SVGBackend::new(file, (1_000, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let end = spans.iter().map(|span| span.to).fold(0.0, f64::max) * 1.25;
    let mut chart = ChartBuilder::on(&root)
        .caption("One event, from its POST", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .build_cartesian_2d(0.0..end, 0.0..rows as f64)?;
    (chart.configure_mesh())
        .x_desc("ms")
        .disable_y_mesh()
        .disable_y_axis()
        .draw()?;
    for (at, span) in spans.iter().enumerate() {
        let y = (rows - 1 - at) as f64;
        let colour = match span.what.split(':').next() {
            Some("ingest") => RGBColor(0x1f, 0x77, 0xb4),
            Some("deliver") => RGBColor(0xd6, 0x27, 0x28),
            _ => RGBColor(0x2c, 0xa0, 0x2c),
        };
        let to = span.to.max(span.from + end / 500.0);
        let bar = Rectangle::new([(span.from, y + 0.1), (to, y + 0.9)], colour.filled());
        chart.draw_series([bar])?;
        let style = ("sans-serif", 10).into_font();
        let text = Text::new(span.what.clone(), (to + end / 200.0, y + 0.9), style);
        chart.draw_series([text])?;
    }
    root.present()?;
    Ok(())
}
