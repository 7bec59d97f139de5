//! Line charts as SVG files, for looking at curves rather than reading them.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

/// A named curve: `(x, y)` points, ascending in `x`.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// One chart of a figure.
pub struct Panel {
    pub title: String,
    pub y: String,
    pub curves: Vec<Curve>,
}

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

/// Writes a figure of panels side by side, two a row, over a common `x`.
pub fn save(path: &Path, title: &str, x: &str, panels: &[Panel]) -> Result<(), Box<dyn Error>> {
    let columns = panels.len().min(2);
    let rows = panels.len().div_ceil(2);
    let size = (540 * columns as u32, 340 * rows as u32 + 40);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let areas = root.titled(title, ("sans-serif", 20))?.split_evenly((rows, columns));
        for (panel, area) in panels.iter().zip(&areas) {
            draw(panel, x, area)?;
        }
        root.present()?;
    }
    std::fs::write(path, svg)?;
    Ok(())
}

fn draw(panel: &Panel, x: &str, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error>> {
    let points = || panel.curves.iter().flat_map(|curve| &curve.points).filter(|(_, y)| y.is_finite());
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let top = points().map(|p| p.1).fold(0.0, f64::max);
    let bottom = points().map(|p| p.1).fold(0.0, f64::min);
    let room = if top > bottom { 0.08 * (top - bottom) } else { 1.0 };
    let bottom = if bottom < 0.0 { bottom - room } else { 0.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..last, bottom..top + room)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(&panel.y)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(BLACK.mix(0.04))
        .bold_line_style(BLACK.mix(0.10))
        .label_style(("sans-serif", 12))
        .draw()?;
    for (curve, colour) in panel.curves.iter().zip(COLOURS.iter().cycle()) {
        let points = curve.points.iter().copied().filter(|(_, y)| y.is_finite());
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    if panel.curves.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    Ok(())
}

/// A number with three significant digits, without trailing zeros.
fn short(x: f64) -> String {
    if x == 0.0 {
        "0".into()
    } else if (1e-3..1e5).contains(&x.abs()) {
        let digits = (2 - x.abs().log10().floor() as i32).max(0) as usize;
        let text = format!("{x:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
    } else {
        format!("{x:.1e}")
    }
}
