//! The plots: of the whole way, and of a burst.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use crate::format::grouped;
use crate::scale::Played;
use crate::whole_way::{Row, System};

const SIZE: (u32, u32) = (900, 520);

fn colour(system: System) -> RGBColor {
    match system {
        System::RelayInMemory => RGBColor(0x1f, 0x77, 0xb4),
        System::RelayInFiles => RGBColor(0x0b, 0x3c, 0x5d),
        System::Outbox => RGBColor(0xd6, 0x27, 0x28),
        System::Hub => RGBColor(0x7f, 0x7f, 0x7f),
    }
}

/// One plot of each figure that people ask for first, over the number of workers.
pub(crate) fn whole_way(rows: &[Row], directory: &Path) -> anyhow::Result<()> {
    let Some(body) = rows.iter().map(|row| row.body).min() else {
        return Ok(());
    };
    let rows: Vec<_> = rows.iter().filter(|row| row.body == body).collect();
    let size = body / 1024;
    for (file, title, unit, figure) in [
        (
            "latency.svg",
            "POST sent → body in the last worker's handler, p50",
            "ms",
            (|row| row.last.p50) as fn(&Row) -> f64,
        ),
        (
            "sustained.svg",
            "Deliveries a second, sustained",
            "deliveries/s",
            |row| row.sustained,
        ),
        (
            "cpu.svg",
            "CPU seconds of the system for 1,000 deliveries",
            "CPU s",
            // A tick is 10 ms.
            |row| row.cpu.max(0.001),
        ),
    ] {
        let title = format!("{title}, {size} KB bodies");
        draw(&directory.join(file), &title, unit, &rows, figure)
            .map_err(|error| anyhow!("cannot draw `{file}`: {error}"))?;
    }
    Ok(())
}

/// Messages that wait, second by second.
pub(crate) fn burst(bursts: &[Played], directory: &Path) -> anyhow::Result<()> {
    draw_burst(&directory.join("burst.svg"), bursts)
        .map_err(|error| anyhow!("cannot draw `burst.svg`: {error}"))
}

fn draw_burst(file: &Path, bursts: &[Played]) -> Result<(), Box<dyn std::error::Error>> {
    let seconds = bursts.iter().map(|played| played.waiting.len()).max();
    let waiting = bursts.iter().flat_map(|played| &played.waiting).copied();
    let most = waiting.fold(1.0, f64::max);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Messages waiting: 1,000 events a second for 10 s to 100 workers, modelled",
            ("sans-serif", 20),
        )
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..seconds.unwrap_or(1) as f64, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("messages")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| grouped(y.round() as usize))
        .light_line_style(RGBColor(0xee, 0xee, 0xee))
        .draw()?;
    for (played, system) in bursts.iter().zip(System::ALL) {
        let colour = colour(system);
        let points = played.waiting.iter().enumerate();
        let points = points.map(|(second, waiting)| (second as f64, *waiting));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(played.setup.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(0xcc, 0xcc, 0xcc))
        .draw()?;
    root.present()?;
    Ok(())
}

fn draw(
    file: &Path,
    title: &str,
    unit: &str,
    rows: &[&Row],
    figure: fn(&Row) -> f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let of = |pick: fn(f64, f64) -> f64, first| rows.iter().map(|r| figure(r)).fold(first, pick);
    let (least, most) = (of(f64::min, f64::INFINITY), of(f64::max, 0.0));
    let workers = rows.iter().map(|row| row.workers as f64);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (0.9..workers.fold(1.0, f64::max) * 1.1).log_scale(),
            (least / 1.5..most * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("workers")
        .y_desc(unit)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| {
            if *y < 1.0 {
                format!("{y}")
            } else {
                format!("{y:.0}")
            }
        })
        .light_line_style(RGBColor(0xee, 0xee, 0xee))
        .draw()?;
    for system in System::ALL {
        let colour = colour(system);
        let points: Vec<_> = (rows.iter())
            .filter(|row| row.system == system)
            .map(|row| (row.workers as f64, figure(row)))
            .collect();
        if points.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(system.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
        chart.draw_series(
            points
                .iter()
                .map(|point| Circle::new(*point, 3, colour.filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(0xcc, 0xcc, 0xcc))
        .draw()?;
    root.present()?;
    Ok(())
}
