//! The picture: good answers per second, and below them how long the slowest hundredth took, over time.

use std::fmt::Write;

use crate::{CALM, CAPACITY, OVERLOAD, PATIENCE, load::Course};

const COLOURS: [&str; 4] = ["#b3261e", "#1a73e8", "#188038", "#9334e6"];

const LEFT: f64 = 60.0;
const WIDTH: f64 = 680.0;
const HEIGHT: f64 = 180.0;
/// Where the two begin.
const TOPS: [f64; 2] = [100.0, 340.0];

pub fn draw(courses: &[(&str, Course)]) -> String {
    let seconds = courses.iter().map(|(_, course)| course.seconds().len()).max().unwrap_or(1);
    let x = |second: f64| LEFT + WIDTH * second / seconds as f64;
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 560\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"560\" fill=\"white\"/>\n",
    );
    text(&mut svg, LEFT, 20.0, "#000", "Three times as many requests as the service can do, for 30 seconds");
    for (index, (name, _)) in courses.iter().enumerate() {
        let (column, row) = ((index % 2) as f64, (index / 2) as f64);
        text(&mut svg, LEFT + 320.0 * column, 42.0 + 18.0 * row, COLOURS[index % COLOURS.len()], name);
    }
    let titles = [
        (format!("good answers per second (it can do {CAPACITY})"), f64::from(CAPACITY) * 1.25),
        (
            format!("ms until 99 of 100 good answers (clients wait {})", PATIENCE.as_millis()),
            PATIENCE.as_millis() as f64,
        ),
    ];
    for (top, (title, most)) in TOPS.into_iter().zip(&titles) {
        let (from, to) = (x(CALM.as_secs_f64()), x((CALM + OVERLOAD).as_secs_f64()));
        let width = to - from;
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"#f1f3f4\"/>"
        );
        text(&mut svg, LEFT, top - 8.0, "#000", title);
        for step in 0..=4 {
            let (y, value) = (top + HEIGHT * (1.0 - f64::from(step) / 4.0), most * f64::from(step) / 4.0);
            let right = LEFT + WIDTH;
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#dadce0\"/>"
            );
            text(&mut svg, 16.0, y + 4.0, "#5f6368", &format!("{value:.0}"));
        }
    }
    for second in (0..=seconds).step_by(5) {
        text(&mut svg, x(second as f64) - 6.0, TOPS[1] + HEIGHT + 18.0, "#5f6368", &format!("{second} s"));
    }
    for (index, (_, course)) in courses.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let good = course.seconds().iter().map(|second| Some(second.good() as f64));
        let p99 = course.seconds().iter().map(|second| Some(second.p99()?.as_secs_f64() * 1e3));
        line(&mut svg, colour, good, |value| TOPS[0] + HEIGHT * (1.0 - (value / titles[0].1).min(1.0)), x);
        line(&mut svg, colour, p99, |value| TOPS[1] + HEIGHT * (1.0 - (value / titles[1].1).min(1.0)), x);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line through the values, with a gap where there is none.
fn line(
    svg: &mut String,
    colour: &str,
    values: impl Iterator<Item = Option<f64>>,
    y: impl Fn(f64) -> f64,
    x: impl Fn(f64) -> f64,
) {
    let (mut path, mut pen) = (String::new(), 'M');
    for (second, value) in values.enumerate() {
        let Some(value) = value else {
            pen = 'M';
            continue;
        };
        let _ = write!(path, "{pen}{:.1} {:.1}", x(second as f64 + 0.5), y(value));
        pen = 'L';
    }
    let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, colour: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{text}</text>");
}
