//! The plots: of the whole way, and of a burst.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::pages::grouped;
use crate::scale::Played;
use crate::whole_way::{Row, System};

fn colour(system: System) -> RGBColor {
    match system {
        System::RelayInMemory => RGBColor(0x1f, 0x77, 0xb4),
        System::RelayInFiles => RGBColor(0x0b, 0x3c, 0x5d),
        System::Outbox => RGBColor(0xd6, 0x27, 0x28),
        System::Hub => RGBColor(0x7f, 0x7f, 0x7f),
    }
}

/// A plot: its two axes, and the lines on them.
struct Plot<'a, Axis> {
    file: &'a str,
    title: &'a str,
    x: (&'a str, Axis),
    y: (&'a str, Axis),
    y_label: fn(&f64) -> String,
    y_label_width: u32,
    legend: SeriesLabelPosition,
    /// Whether each point is marked on its line.
    marked: bool,
    lines: Vec<Line<'a>>,
}

/// A line with its colour and its name in the legend.
type Line<'a> = (RGBColor, &'a str, Vec<(f64, f64)>);

/// One plot of each figure that people ask for first, over the number of workers.
pub(crate) fn whole_way(rows: &[Row], directory: &Path) -> anyhow::Result<()> {
    let Some(body) = rows.iter().map(|row| row.body).min() else {
        return Ok(());
    };
    let rows: Vec<_> = rows.iter().filter(|row| row.body == body).collect();
    let workers = rows.iter().map(|row| row.workers as f64);
    let workers = workers.fold(1.0, f64::max);
    for (file, title, unit, figure) in [
        (
            "latency.svg",
            "POST sent → body in the last worker's handler, p50",
            "ms",
            (|row| row.last_ms.p50) as fn(&Row) -> f64,
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
            |row| row.cpu_seconds.unwrap_or_default().max(0.001),
        ),
    ] {
        let lines = System::ALL.into_iter().map(|system| {
            let rows = rows.iter().filter(|row| row.system == system.key());
            let points = rows.map(|row| (row.workers as f64, figure(row)));
            (colour(system), system.name(), points.collect::<Vec<_>>())
        });
        let figures = rows.iter().map(|row| figure(row));
        let least = figures.clone().fold(f64::INFINITY, f64::min);
        let most = figures.fold(0.0, f64::max);
        let plot = Plot {
            file,
            title: &format!("{title}, {} KB bodies", body / 1024),
            x: ("workers", LogCoord::from((0.9..workers * 1.1).log_scale())),
            y: (unit, LogCoord::from((least / 1.5..most * 1.5).log_scale())),
            y_label: |y| (if *y < 1.0 { *y } else { y.round_ties_even() }).to_string(),
            y_label_width: 70,
            legend: SeriesLabelPosition::UpperLeft,
            marked: true,
            lines: lines.filter(|(.., points)| !points.is_empty()).collect(),
        };
        plot.draw(directory)?;
    }
    Ok(())
}

/// Messages that wait, second by second.
pub(crate) fn burst(bursts: &[Played], directory: &Path) -> anyhow::Result<()> {
    let seconds = bursts.iter().map(|played| played.waiting.len());
    let seconds = seconds.max().unwrap_or(1) as f64;
    let waiting = bursts.iter().flat_map(|played| &played.waiting).copied();
    let most = waiting.fold(1.0, f64::max);
    let lines = bursts.iter().zip(System::ALL).map(|(played, system)| {
        let points = (0..).map(f64::from).zip(played.waiting.iter().copied());
        (colour(system), played.setup.name.as_str(), points.collect())
    });
    let plot = Plot {
        file: "burst.svg",
        title: "Messages waiting: 1,000 events a second for 10 s to 100 workers, modelled",
        x: ("seconds", RangedCoordf64::from(0.0..seconds)),
        y: ("messages", RangedCoordf64::from(0.0..most * 1.1)),
        y_label: |y| grouped(y.round() as usize),
        y_label_width: 90,
        legend: SeriesLabelPosition::UpperRight,
        marked: false,
        lines: lines.collect(),
    };
    plot.draw(directory)
}

impl<Axis: Ranged<ValueType = f64> + ValueFormatter<f64>> Plot<'_, Axis> {
    fn draw(self, directory: &Path) -> anyhow::Result<()> {
        let file = self.file;
        self.draw_as(&directory.join(file))
            .map_err(|error| anyhow!("cannot draw `{file}`: {error}"))
    }

    fn draw_as(self, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::new(file, (900, 520)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(self.y_label_width)
            .build_cartesian_2d(self.x.1, self.y.1)?;
        chart
            .configure_mesh()
            .x_desc(self.x.0)
            .y_desc(self.y.0)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&self.y_label)
            .light_line_style(RGBColor(0xee, 0xee, 0xee))
            .draw()?;
        for (colour, name, points) in self.lines {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            if self.marked {
                let mark = |point| Circle::new(point, 3, colour.filled());
                chart.draw_series(points.into_iter().map(mark))?;
            }
        }
        chart
            .configure_series_labels()
            .position(self.legend)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(0xcc, 0xcc, 0xcc))
            .draw()?;
        root.present()?;
        Ok(())
    }
}
