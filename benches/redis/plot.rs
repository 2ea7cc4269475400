//! Plots: horizontal bars, by row and by series, as SVG on white.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::error::{Error, Result};

/// What is drawn.
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below it, with the unit.
    pub axis: String,
    /// What the colours mean.
    pub series: Vec<String>,
    /// Each with a value for each series; NaN draws no bar.
    pub rows: Vec<(String, Vec<f64>)>,
    /// Where a line stands.
    pub mark: Option<f64>,
    /// Whether the axis is logarithmic.
    pub is_logarithmic: bool,
}

const WIDTH: u32 = 960;
const LABELS_WIDTH: u32 = 400;
const BAR_HEIGHT: u32 = 16;
const FRAME_HEIGHT: u32 = 130;
/// Told apart by people who do not see red and green as well.
pub const COLORS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
];

/// Draws it to a file.
pub fn draw(path: &Path, plot: &Plot) -> Result<()> {
    let all = plot.rows.iter().flat_map(|(_, values)| values).copied().chain(plot.mark);
    let all: Vec<_> = all.filter(|value| value.is_finite() && *value > 0.0).collect();
    let most = all.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let least = all.iter().copied().fold(most, f64::min);
    let drawn = match plot.is_logarithmic {
        true => draw_on(path, plot, least / 1.5, (least / 1.5..most * 3.0).log_scale()),
        false => draw_on(path, plot, 0.0, 0.0..most * 1.15),
    };
    drawn.map_err(|error| Error::Library(format!("{}: {error}", path.display())))
}

fn draw_on<X>(
    path: &Path,
    plot: &Plot,
    from: f64,
    axis: X,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
{
    let series = plot.series.len();
    let slots = plot.rows.len() * (series + 1);
    let height = FRAME_HEIGHT + slots as u32 * BAR_HEIGHT;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&plot.title, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(45)
        .margin_left(LABELS_WIDTH)
        .build_cartesian_2d(axis, slots as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE)
        .x_labels(8)
        .x_desc(&plot.axis)
        .draw()?;

    let middle = |slot: f64| slot + 0.5;
    for (index, name) in plot.series.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let slot = |row: usize| (row * (series + 1) + index) as f64 + 0.5;
        let bars =
            plot.rows.iter().enumerate().filter(|(_, (_, values))| values[index].is_finite());
        let bars = bars.map(|(row, (_, values))| {
            Rectangle::new(
                [(from, slot(row) + 0.05), (values[index], slot(row) + 0.95)],
                color.filled(),
            )
        });
        chart.draw_series(bars)?;
        let x = 10 + 110 * index as i32;
        root.draw(&Rectangle::new([(x, 14), (x + 12, 26)], color.filled()))?;
        root.draw(&Text::new(name.as_str(), (x + 18, 14), ("sans-serif", 14)))?;
        for (row, (_, values)) in plot.rows.iter().enumerate() {
            if values[index].is_finite() {
                let (x, y) = chart.backend_coord(&(values[index], middle(slot(row))));
                root.draw(&Text::new(shown(values[index]), (x + 4, y - 6), ("sans-serif", 12)))?;
            }
        }
    }
    for (row, (label, _)) in plot.rows.iter().enumerate() {
        let center = (row * (series + 1)) as f64 + 0.5 + series as f64 / 2.0;
        let (_, y) = chart.backend_coord(&(from.max(f64::MIN_POSITIVE), center));
        root.draw(&Text::new(label.as_str(), (10, y - 6), ("sans-serif", 13)))?;
    }
    if let Some(mark) = plot.mark {
        chart.draw_series([PathElement::new([(mark, 0.0), (mark, slots as f64)], BLACK)])?;
    }
    root.present()?;
    Ok(())
}

/// Three digits.
fn shown(value: f64) -> String {
    let decimals = (2 - value.abs().log10().floor() as i32).clamp(0, 3) as usize;
    format!("{value:.decimals$}")
}
