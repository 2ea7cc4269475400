//! The same work with more and more clients, as curves: throughput, latency and processor time, of each server.

use std::path::Path;

use plotters::prelude::*;

use crate::error::{Error, Result};
use crate::figures::{Metric, Row};
use crate::plot::COLORS;
use crate::workload::{GROWTH_SUFFIX, Load};

const OPERATIONS: [&str; 2] = ["SET", "GET"];
const METRICS: [Metric; 3] = [Metric::Throughput, Metric::P99, Metric::Cpu];
const SIZE: (u32, u32) = (1080, 620);
const LEGEND_HEIGHT: i32 = 36;

/// What a server gives with so many clients, ascending.
type Curve = Vec<(f64, f64)>;

/// The curve of each server; empty where there is no row of that operation and metric.
fn curves(rows: &[Row], servers: usize, operation: &str, metric: Metric) -> Vec<Curve> {
    let clients = |row: &Row| match row.workload.load {
        Load::Standard { clients, .. } if row.workload.name.ends_with(GROWTH_SUFFIX) => {
            Some(f64::from(clients))
        }
        _ => None,
    };
    let is_of = |row: &&Row| row.operation == operation && row.metric == metric;
    let curve = |server: usize| {
        let point = |row: &Row| Some((clients(row)?, row.median(server)?));
        let mut curve: Curve = rows.iter().filter(is_of).filter_map(point).collect();
        curve.sort_by(|one, next| one.0.total_cmp(&next.0));
        curve
    };
    (0..servers).map(curve).collect()
}

/// Draws them to a file; `false` if fewer than two numbers of clients were measured.
pub fn draw(path: &Path, rows: &[Row], names: &[&str]) -> Result<bool> {
    if curves(rows, names.len(), OPERATIONS[0], METRICS[0])[0].len() < 2 {
        return Ok(false);
    }
    let drawn = draw_all(path, rows, names);
    drawn.map_err(|error| Error::Library(format!("{}: {error}", path.display())))?;
    Ok(true)
}

fn draw_all(
    path: &Path,
    rows: &[Row],
    names: &[&str],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (legend, panels) = root.split_vertically(LEGEND_HEIGHT);
    for (index, name) in names.iter().enumerate() {
        let x = 10 + 110 * index as i32;
        let color = COLORS[index % COLORS.len()];
        legend.draw(&Rectangle::new([(x, 14), (x + 12, 26)], color.filled()))?;
        legend.draw(&Text::new(*name, (x + 18, 14), ("sans-serif", 14)))?;
    }
    let panels = panels.split_evenly((OPERATIONS.len(), METRICS.len()));
    let each = OPERATIONS.iter().flat_map(|operation| METRICS.map(|metric| (*operation, metric)));
    for (panel, (operation, metric)) in panels.iter().zip(each) {
        let curves = curves(rows, names.len(), operation, metric);
        let all = || curves.iter().flatten();
        let most = all().map(|point| point.1).fold(0.0, f64::max);
        let last = all().map(|point| point.0).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("{operation}, {}", metric.title()), ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(56)
            .build_cartesian_2d((1.0..last).log_scale(), 0.0..most * 1.1)?;
        let label = |value: &f64| format!("{value:.0}");
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("clients")
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .draw()?;
        for (index, curve) in curves.into_iter().enumerate() {
            let style = COLORS[index % COLORS.len()].stroke_width(2);
            let dots = curve.iter().map(|point| Circle::new(*point, 3, style.filled()));
            chart.draw_series(dots.collect::<Vec<_>>())?;
            chart.draw_series([PathElement::new(curve, style)])?;
        }
    }
    root.present()?;
    Ok(())
}
