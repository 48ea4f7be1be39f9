//! Lines over two axes that begin at zero, as SVG: one panel below the other. The same figures give the same bytes.

use std::fmt::Write as _;

/// A line, or a level if it has one point only.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it shows.
    pub name: &'static str,
    /// Its colour.
    pub colour: &'static str,
    /// Its points by rising x.
    pub points: Vec<(f64, f64)>,
}

/// One pair of axes.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What is shown.
    pub title: String,
    /// What the horizontal axis counts.
    pub x: &'static str,
    /// What the vertical axis counts.
    pub y: &'static str,
    /// The lines.
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
/// Parts of an axis, about.
const PARTS: f64 = 5.0;

/// Draws the panels.
pub fn svg(panels: &[Panel]) -> Result<String, std::fmt::Error> {
    let height = HEIGHT * panels.len() as f64;
    let mut out = String::new();
    writeln!(out, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' font-family='sans-serif'>")?;
    writeln!(out, "<rect width='{WIDTH}' height='{height}' fill='white'/>")?; // readable on a dark page too
    for (index, panel) in panels.iter().enumerate() {
        writeln!(out, "<g transform='translate(0 {})' font-size='12' fill='#222'>", HEIGHT * index as f64)?;
        panel.draw(&mut out)?;
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

/// From figures to places on the page.
struct Scale {
    x: Axis,
    y: Axis,
}

/// From zero to its end, in round steps.
struct Axis {
    step: f64,
    end: f64,
}

impl Axis {
    /// Ends at the largest figure.
    fn exact(most: f64) -> Self {
        let end = most.max(f64::MIN_POSITIVE);
        let rough = end / PARTS;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].into_iter().map(|step| step * power).find(|step| *step >= rough);
        Self { step: step.map_or(10.0 * power, |step| step), end }
    }

    /// Ends at the first step that holds every figure.
    fn whole(most: f64) -> Self {
        let Self { step, end } = Self::exact(most);
        Self { step, end: (end / step).ceil() * step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = (self.end / self.step + 1e-9).floor() as u32;
        let step = self.step;
        (0..=count).map(move |tick| f64::from(tick) * step)
    }

    fn label(&self, tick: f64) -> String {
        let digits = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{tick:.digits$}")
    }
}

impl Scale {
    fn x(&self, x: f64) -> f64 {
        LEFT + x / self.x.end * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - y / self.y.end * (HEIGHT - TOP - BOTTOM)
    }
}

impl Panel {
    fn draw(&self, out: &mut String) -> std::fmt::Result {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
        let scale = Scale { x: Axis::exact(most(|point| point.0)), y: Axis::whole(most(|point| point.1)) };
        writeln!(out, "<text x='{LEFT}' y='20' font-size='14' font-weight='bold'>{}</text>", self.title)?;
        self.axes(out, &scale)?;
        for (index, line) in self.lines.iter().enumerate() {
            line.draw(out, &scale)?;
            line.legend(out, TOP + 12.0 + 20.0 * index as f64)?;
        }
        Ok(())
    }

    fn axes(&self, out: &mut String, scale: &Scale) -> std::fmt::Result {
        let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in scale.y.ticks() {
            let (y, label) = (scale.y(tick), scale.y.label(tick));
            writeln!(out, "<path d='M{left} {y:.1}H{right}' stroke='#ddd'/>")?;
            writeln!(out, "<text x='{:.1}' y='{:.1}' text-anchor='end'>{label}</text>", left - 6.0, y + 4.0)?;
        }
        for tick in scale.x.ticks() {
            let (x, label) = (scale.x(tick), scale.x.label(tick));
            writeln!(out, "<path d='M{x:.1} {bottom}v4' stroke='#222'/>")?;
            writeln!(out, "<text x='{x:.1}' y='{:.1}' text-anchor='middle'>{label}</text>", bottom + 17.0)?;
        }
        writeln!(out, "<path d='M{left} {TOP}V{bottom}H{right}' stroke='#222' fill='none'/>")?;
        let (middle, below) = ((left + right) / 2.0, HEIGHT - 10.0);
        writeln!(out, "<text x='{middle:.1}' y='{below}' text-anchor='middle'>{}</text>", self.x)?;
        let middle = (TOP + bottom) / 2.0;
        let turned = format!("transform='translate(16 {middle:.1}) rotate(-90)'");
        writeln!(out, "<text {turned} text-anchor='middle'>{}</text>", self.y)
    }
}

impl Line {
    fn draw(&self, out: &mut String, scale: &Scale) -> std::fmt::Result {
        let pen = self.pen();
        if let [(_, level)] = *self.points {
            return writeln!(out, "<path d='M{LEFT} {:.1}H{}' {pen}/>", scale.y(level), WIDTH - RIGHT);
        }
        write!(out, "<polyline {pen} points='")?;
        for (x, y) in &self.points {
            write!(out, "{:.1},{:.1} ", scale.x(*x), scale.y(*y))?;
        }
        writeln!(out, "'/>")
    }

    fn pen(&self) -> String {
        let dashes = if self.points.len() == 1 { " stroke-dasharray='6 4'" } else { "" };
        format!("stroke='{}' stroke-width='2' fill='none'{dashes}", self.colour)
    }

    fn legend(&self, out: &mut String, y: f64) -> std::fmt::Result {
        let (x, pen) = (WIDTH - RIGHT + 14.0, self.pen());
        writeln!(out, "<path d='M{x} {y}h24' {pen}/>")?;
        writeln!(out, "<text x='{}' y='{}'>{}</text>", x + 30.0, y + 4.0, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_steps_and_ends_at_one_or_at_the_largest_figure() {
        let rows = [
            (1.0, "0.0 0.2 0.4 0.6 0.8 1.0", "0.0 0.2 0.4 0.6 0.8 1.0"),
            (730.0, "0 200 400 600", "0 200 400 600 800"),
            (2.04, "0.0 0.5 1.0 1.5 2.0", "0.0 0.5 1.0 1.5 2.0 2.5"),
            (10.0, "0 2 4 6 8 10", "0 2 4 6 8 10"),
        ];
        let labels = |axis: Axis| axis.ticks().map(|tick| axis.label(tick)).collect::<Vec<_>>().join(" ");
        for (most, exact, whole) in rows {
            assert_eq!(labels(Axis::exact(most)), exact, "up to {most}");
            assert_eq!(labels(Axis::whole(most)), whole, "up to {most}");
        }
        assert!(Axis::whole(0.0).ticks().count() > 1, "an axis of nothing is an axis");
    }

    #[test]
    fn the_same_figures_give_the_same_picture_with_every_line_in_it() {
        let line = |name, points| Line { name, colour: "#123456", points };
        let lines = vec![line("run", vec![(0.0, 1.0), (1.0, 2.0)]), line("level", vec![(0.0, 1.5)])];
        let panel = Panel { title: "uniform".to_owned(), x: "times", y: "MiB", lines };
        let picture = svg(&[panel.clone(), panel.clone()]).unwrap();
        assert_eq!(picture, svg(&[panel.clone(), panel]).unwrap());
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert_eq!(picture.matches("stroke-dasharray").count(), 4, "two levels, each with its legend");
        assert_eq!(picture.matches("<g ").count(), picture.matches("</g>").count());
    }
}
