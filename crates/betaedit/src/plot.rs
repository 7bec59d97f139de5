//! Line charts as SVG files.

use std::path::Path;

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::terminal::Done;

/// A named curve: `(x, y)` points, ascending in `x`.
pub struct Curve {
    pub name: String,
    pub dashed: bool,
    pub points: Vec<(f64, f64)>,
}

/// One chart of a figure.
pub struct Panel {
    pub title: String,
    pub y: String,
    pub curves: Vec<Curve>,
}

/// Colours that colour-blind readers can distinguish (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

/// Writes a figure, see [`svg`].
pub fn save(path: &Path, title: &str, x: &str, panels: &[Panel]) -> Done {
    crate::files::replace(path, svg(title, x, panels)?)
}

/// A figure of panels, two per row, over a common `x`.
pub fn svg(title: &str, x: &str, panels: &[Panel]) -> Done<String> {
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
    Ok(svg)
}

fn draw(panel: &Panel, x: &str, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Done {
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
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.10))
        .label_style(("sans-serif", 12))
        .draw()?;
    for (curve, colour) in panel.curves.iter().zip(COLOURS.iter().cycle()) {
        let points = curve.points.iter().copied().filter(|(_, y)| y.is_finite());
        let style = colour.stroke_width(2);
        let drawn = if curve.dashed {
            chart.draw_series(DashedLineSeries::new(points.collect::<Vec<_>>(), 6, 4, style))?
        } else {
            chart.draw_series(LineSeries::new(points, style))?
        };
        // In the legend, a solid line is one dash.
        let dash = if curve.dashed { 6 } else { 24 };
        drawn.label(&curve.name).legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 24, y)], dash, 3, style));
    }
    if panel.curves.len() > 1 {
        chart
            .configure_series_labels()
            .position(emptiest_corner(&panel.curves, last, bottom, top))
            .legend_area_size(30)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 12))
            .draw()?;
    }
    Ok(())
}

/// The corner where a legend hides the fewest points of the curves.
fn emptiest_corner(curves: &[Curve], last: f64, bottom: f64, top: f64) -> SeriesLabelPosition {
    let hidden = |right: bool, upper: bool| {
        let inside = |&&(x, y): &&(f64, f64)| {
            let (x, y) = (x / last, (y - bottom) / (top - bottom));
            (if right { x > 0.6 } else { x < 0.4 }) && (if upper { y > 0.6 } else { y < 0.4 })
        };
        // A curve of few points counts as much as one of many.
        curves.iter().map(|curve| curve.points.iter().filter(inside).count() as f64 / curve.points.len() as f64).sum()
    };
    let corners = [
        (SeriesLabelPosition::UpperLeft, hidden(false, true)),
        (SeriesLabelPosition::UpperRight, hidden(true, true)),
        (SeriesLabelPosition::LowerRight, hidden(true, false)),
        (SeriesLabelPosition::LowerLeft, hidden(false, false)),
    ];
    let emptiest = corners.into_iter().min_by(|a: &(_, f64), b| a.1.total_cmp(&b.1));
    emptiest.map_or(SeriesLabelPosition::UpperLeft, |corner| corner.0)
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
