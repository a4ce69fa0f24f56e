//! What was measured, as a table for people and as JSON.
//!
//! Absolute figures mean little on a machine that does other work; so each figure stands beside
//! what it is to be compared with, measured in the same run.

use std::fmt;

use serde_json::Value;
use serde_json::json;

/// All that one run measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Version of the Redis that was asked; none where none was.
    pub redis: Option<String>,
    /// Whether it was a short run: its figures are coarse.
    pub is_quick: bool,
    /// The figures, in the order in which they are to be read.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which part of the run, in a word or two.
    pub part: &'static str,
    /// What was measured.
    pub name: String,
    /// How much.
    pub figure: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it is compared with.
    pub baseline: Option<Baseline>,
    /// What it is to be.
    pub target: Option<Target>,
}

/// What a figure is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// Which figure of the same run.
    pub name: String,
    /// The one divided by the other.
    pub ratio: f64,
}

/// What a figure is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// In words.
    pub words: String,
    /// Whether it is.
    pub is_met: bool,
}

impl Row {
    pub(super) fn new(
        part: &'static str,
        name: impl Into<String>,
        figure: f64,
        unit: &'static str,
    ) -> Self {
        Self { part, name: name.into(), figure, unit, baseline: None, target: None }
    }

    /// Beside another figure.
    pub(super) fn beside(mut self, name: impl Into<String>, other: f64) -> Self {
        self.baseline = Some(Baseline { name: name.into(), ratio: ratio(self.figure, other) });
        self
    }

    /// The figure itself is to be so much at most.
    pub(super) fn at_most(mut self, most: f64) -> Self {
        let is_met = self.figure <= most;
        let words = format!("<= {most} {}", self.unit);
        self.target = Some(Target { words, is_met });
        self
    }

    /// The figure itself is to be so much at least.
    pub(super) fn at_least(mut self, least: f64) -> Self {
        let is_met = self.figure >= least;
        let words = format!(">= {least} {}", self.unit);
        self.target = Some(Target { words, is_met });
        self
    }

    /// The ratio is to be so much at most.
    pub(super) fn within(mut self, most: f64) -> Self {
        let is_met = self.baseline.as_ref().is_some_and(|baseline| baseline.ratio <= most);
        self.target = Some(Target { words: format!("<= {most} x"), is_met });
        self
    }

    /// The ratio is to be so much at least.
    pub(super) fn beyond(mut self, least: f64) -> Self {
        let is_met = self.baseline.as_ref().is_some_and(|baseline| baseline.ratio >= least);
        self.target = Some(Target { words: format!(">= {least} x"), is_met });
        self
    }

    fn to_json(&self) -> Value {
        let Self { part, name, figure, unit, baseline, target } = self;
        json!({
            "part": part,
            "name": name,
            "figure": rounded(*figure),
            "unit": unit,
            "baseline": baseline.as_ref().map(|baseline| &baseline.name),
            "ratio": baseline.as_ref().map(|baseline| rounded(baseline.ratio)),
            "target": target.as_ref().map(|target| &target.words),
            "met": target.as_ref().map(|target| target.is_met),
        })
    }
}

impl Report {
    /// The same for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "redis": self.redis,
            "build": build(),
            "quick": self.is_quick,
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "narrows {}, {} build", env!("CARGO_PKG_VERSION"), build())?;
        if let Some(redis) = &self.redis {
            write!(f, ", Redis {redis}")?;
        }
        if self.is_quick {
            f.write_str(", a short run: coarse figures")?;
        }
        let cells: Vec<[String; 5]> = self.rows.iter().map(cells).collect();
        let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: [usize; 5] = std::array::from_fn(width);
        let mut part = "";
        for (row, [name, figure, unit, baseline, target]) in self.rows.iter().zip(&cells) {
            if row.part != part {
                part = row.part;
                write!(f, "\n\n{part}")?;
            }
            let [names, figures, units, baselines, _] = widths;
            let line = format!(
                "  {name:<names$}  {figure:>figures$} {unit:<units$}  {baseline:<baselines$}  {target}"
            );
            write!(f, "\n{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 5] {
    let baseline = row.baseline.as_ref();
    let target = row.target.as_ref();
    [
        row.name.clone(),
        digits(row.figure),
        row.unit.to_owned(),
        baseline.map_or_else(String::new, |at| format!("{} x {}", digits(at.ratio), at.name)),
        target.map_or_else(String::new, |at| {
            format!("{}: {}", at.words, if at.is_met { "met" } else { "NOT MET" })
        }),
    ]
}

/// Three digits say all that a figure is good for.
fn digits(figure: f64) -> String {
    match figure {
        figure if figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

fn ratio(figure: f64, other: f64) -> f64 {
    if other > 0.0 { figure / other } else { 0.0 }
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let rows = vec![
            Row::new("cost", "INCR and DECR", 2.0, "us"),
            Row::new("cost", "a pair", 9.0, "us").beside("INCR and DECR", 2.0).at_most(12.0),
            Row::new("rate", "a pair", 150.25, "/s").beside("bare", 600.0).beyond(0.7),
        ];
        Report { redis: Some("7.0.15".to_owned()), is_quick: false, rows }
    }

    #[test]
    fn the_table_is_aligned_and_says_what_was_met() {
        let text = report().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("Redis 7.0.15"), "{text}");
        assert_eq!(
            lines[1..],
            [
                "",
                "cost",
                "  INCR and DECR  2.00 us",
                "  a pair         9.00 us  4.50 x INCR and DECR  <= 12 us: met",
                "",
                "rate",
                "  a pair          150 /s  0.25 x bare           >= 0.7 x: NOT MET",
            ]
        );
    }

    #[test]
    fn a_target_is_met_up_to_its_bound_and_not_beyond() {
        let row = |figure| Row::new("p", "n", figure, "us").beside("b", 2.0);
        let met = |row: Row| row.target.unwrap().is_met;
        assert!(met(row(3.0).at_most(3.0)) && !met(row(3.1).at_most(3.0)));
        assert!(met(row(3.0).at_least(3.0)) && !met(row(2.9).at_least(3.0)));
        assert!(met(row(3.0).within(1.5)) && !met(row(3.1).within(1.5)));
        assert!(met(row(3.0).beyond(1.5)) && !met(row(2.9).beyond(1.5)));
        assert!(!met(Row::new("p", "n", 1.0, "us").within(1.0)), "nothing to compare with");
    }

    #[test]
    fn programs_get_all_of_it() {
        let json = report().to_json();
        let row = &json["rows"][2];
        assert_eq!(row["figure"], 150.25);
        assert_eq!((&row["ratio"], &row["met"]), (&json!(0.25), &json!(false)));
        assert_eq!(json["rows"][0]["target"], Value::Null);
    }
}
