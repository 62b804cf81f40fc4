//! Learning-rate schedules.
//!
//! The first w of `total` steps are the warm-up. With 0-based step s, base rate b, minimum ratio m and p = (s − w)
//! / (total − w), the learning rate is b · (m + (1 − m) · f):
//!
//! | phase                | f                                         |
//! |----------------------|-------------------------------------------|
//! | warm-up, s < w       | (s + 1) / w, with m = 0                   |
//! | constant             | 1                                         |
//! | linear               | 1 − p                                     |
//! | cosine               | (1 + cos πp) / 2                          |
//! | cosine with restarts | (1 + cos π(np mod 1)) / 2, n cycles       |
//! | polynomial           | (1 − p)ᵏ                                  |
//! | wsd                  | 1, in the last d steps 1 − √(1 − rest / d)|
//! | table                | straight lines between given factors      |
//!
//! After the warm-up this equals `get_{constant,linear,cosine,…}_schedule_with_warmup` of transformers at step s;
//! during the warm-up it equals theirs at step s + 1, because theirs begins with a step of learning rate 0. The
//! decay ends at s = total, after the last step, so no step is wasted. A table replaces the whole schedule: it has
//! no separate warm-up, and m = 0.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Kind of learning-rate schedule after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Constant.
    Constant,
    /// Linear decay.
    Linear,
    /// Cosine decay (<https://arxiv.org/abs/1608.03983>, without restarts).
    #[default]
    Cosine,
    /// Cosine decay with hard restarts (<https://arxiv.org/abs/1608.03983>).
    CosineWithRestarts,
    /// Polynomial decay.
    Polynomial,
    /// Constant, with a square-root decay at the end (warm-up, stable, decay: <https://arxiv.org/abs/2405.18392>).
    Wsd,
    /// Linear interpolation between given points.
    Table,
}

/// A learning-rate schedule with its hyperparameters; fields that `kind` does not use are ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct LrSchedule {
    /// Kind of schedule.
    pub kind: ScheduleKind,
    /// Minimum learning rate as a fraction of the base rate.
    pub min_ratio: f64,
    /// Number of cycles of [`ScheduleKind::CosineWithRestarts`].
    pub cycles: u32,
    /// Exponent of [`ScheduleKind::Polynomial`].
    pub power: f64,
    /// Fraction of all steps in which [`ScheduleKind::Wsd`] decays.
    pub decay_ratio: f64,
    /// Points `(steps taken, fraction of the base rate)` of [`ScheduleKind::Table`], from [`parse_table`].
    pub table: Vec<(u64, f64)>,
}

#[expect(clippy::cast_precision_loss, reason = "runs have fewer than 2⁵² steps")]
impl LrSchedule {
    /// Returns the learning rate of `step` (0-based) of `total`, the first `warmup_steps` of which warm up to
    /// `base`.
    #[must_use]
    pub fn lr_at(&self, step: u64, total: u64, warmup_steps: u64, base: f64) -> f64 {
        if self.kind == ScheduleKind::Table {
            return base * self.interpolated(step);
        }
        if step < warmup_steps {
            return base * (step + 1) as f64 / warmup_steps as f64;
        }
        let decaying = total.saturating_sub(warmup_steps).max(1);
        let progress = ((step - warmup_steps) as f64 / decaying as f64).min(1.0);
        let cosine = |progress: f64| f64::midpoint(1.0, (std::f64::consts::PI * progress).cos());
        let factor = match self.kind {
            ScheduleKind::Constant | ScheduleKind::Table => 1.0,
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Cosine => cosine(progress),
            ScheduleKind::CosineWithRestarts if progress < 1.0 => {
                cosine((f64::from(self.cycles) * progress).fract())
            }
            ScheduleKind::CosineWithRestarts => 0.0,
            ScheduleKind::Polynomial => (1.0 - progress).powf(self.power),
            ScheduleKind::Wsd => {
                let last = (total as f64 * self.decay_ratio).round().clamp(1.0, decaying as f64);
                let rest = total.saturating_sub(step) as f64;
                1.0 - (1.0 - rest / last).max(0.0).sqrt()
            }
        };
        base * (self.min_ratio + (1.0 - self.min_ratio) * factor)
    }

    fn interpolated(&self, step: u64) -> f64 {
        let after = self.table.partition_point(|&(at, _)| at <= step);
        let (before, after) = (after.checked_sub(1).map(|i| self.table[i]), self.table.get(after));
        match (before, after) {
            (Some((from, low)), Some(&(to, high))) => {
                low + (high - low) * (step - from) as f64 / (to - from) as f64
            }
            (Some((_, factor)), None) | (None, Some(&(_, factor))) => factor,
            (None, None) => 1.0,
        }
    }
}

/// Parses points such as `100=0.5`: half the base rate after 100 steps.
///
/// # Errors
/// The first point that cannot be parsed or does not come after the previous one.
pub fn parse_table(points: &[String]) -> Result<Vec<(u64, f64)>> {
    let mut table: Vec<(u64, f64)> = Vec::with_capacity(points.len());
    for point in points {
        let refuse = |why: &str| Err(Error::Config(format!("lr_table: \"{point}\" {why}")));
        let pair = point.split_once('=').and_then(|(step, factor)| {
            Some((step.trim().parse::<u64>().ok()?, factor.trim().parse::<f64>().ok()?))
        });
        let Some((step, factor)) = pair.filter(|(_, factor)| factor.is_finite() && *factor >= 0.0) else {
            return refuse("is no step=factor, such as 100=0.5");
        };
        if table.last().is_some_and(|&(last, _)| last >= step) {
            return refuse("is not after the point before it");
        }
        table.push((step, factor));
    }
    if table.is_empty() {
        return Err(Error::Config("lr_table is empty, expected step=factor, such as 0=1,100=0.5".into()));
    }
    Ok(table)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these rates are exact")]
mod tests {
    use super::*;

    /// Learning rates of transformers 5.23 for base 0.5 by step, the schedulers stepped on `torch.optim.SGD`.
    const COSINE_0_10: [f64; 11] = [
        0.5,
        0.487_764_129_073_788_4,
        0.452_254_248_593_736_86,
        0.396_946_313_073_118_3,
        0.327_254_248_593_736_86,
        0.25,
        0.172_745_751_406_263_15,
        0.103_053_686_926_881_74,
        0.047_745_751_406_263_165,
        0.012_235_870_926_211_617,
        0.0,
    ];
    const COSINE_4_10: [f64; 11] = [
        0.0,
        0.125,
        0.25,
        0.375,
        0.5,
        0.466_506_350_946_109_7,
        0.375,
        0.25,
        0.125_000_000_000_000_06,
        0.033_493_649_053_890_32,
        0.0,
    ];
    const LINEAR_4_10: [f64; 11] = [
        0.0,
        0.125,
        0.25,
        0.375,
        0.5,
        0.416_666_666_666_666_7,
        0.333_333_333_333_333_3,
        0.25,
        0.166_666_666_666_666_66,
        0.083_333_333_333_333_33,
        0.0,
    ];
    const CONSTANT_4: [f64; 11] = [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5];

    // The same of transformers 5.24.
    const RESTARTS_3_4_10: [f64; 11] = [0.0, 0.125, 0.25, 0.375, 0.5, 0.25, 0.5, 0.25, 0.5, 0.25, 0.0];
    const POLYNOMIAL_2_4_10_TO_A_TENTH: [f64; 11] =
        [0.0, 0.125, 0.25, 0.375, 0.5, 0.3625, 0.25, 0.1625, 0.1, 0.0625, 0.05];
    const COSINE_4_10_TO_A_TENTH: [f64; 11] = [
        0.0,
        0.125,
        0.25,
        0.375,
        0.5,
        0.469_855_715_851_498_7,
        0.3875,
        0.275,
        0.162_5,
        0.080_144_284_148_501_29,
        0.05,
    ];
    // With `decay_type="1-sqrt"`; where theirs begins at the tenth, our warm-up begins lower.
    const WSD_2_4_4_TO_A_TENTH: [f64; 11] =
        [0.0, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.275, 0.181_801_948_466_053_58, 0.110_288_568_297_002_63, 0.05];

    fn schedule(kind: ScheduleKind) -> LrSchedule {
        LrSchedule { kind, min_ratio: 0.0, cycles: 3, power: 2.0, decay_ratio: 0.4, table: Vec::new() }
    }

    fn assert_matches(kind: ScheduleKind, warmup: usize, theirs: &[f64; 11]) {
        assert_schedule_matches(&schedule(kind), warmup, theirs);
    }

    fn assert_schedule_matches(schedule: &LrSchedule, warmup: usize, theirs: &[f64; 11]) {
        for step in 0..=10 {
            let at = if step < warmup { step + 1 } else { step };
            let lr = schedule.lr_at(step as u64, 10, warmup as u64, 0.5);
            assert!((lr - theirs[at]).abs() < 1e-14, "step {step}: {lr}, transformers {}", theirs[at]);
        }
    }

    #[test]
    fn rates_are_those_of_transformers_without_the_idle_first_step() {
        assert_matches(ScheduleKind::Cosine, 0, &COSINE_0_10);
        assert_matches(ScheduleKind::Cosine, 4, &COSINE_4_10);
        assert_matches(ScheduleKind::Linear, 4, &LINEAR_4_10);
        assert_matches(ScheduleKind::Constant, 4, &CONSTANT_4);
        assert_matches(ScheduleKind::CosineWithRestarts, 4, &RESTARTS_3_4_10);
    }

    #[test]
    fn a_share_may_be_left_at_the_end() {
        let to_a_tenth = |kind| LrSchedule { min_ratio: 0.1, ..schedule(kind) };
        assert_schedule_matches(&to_a_tenth(ScheduleKind::Cosine), 4, &COSINE_4_10_TO_A_TENTH);
        assert_schedule_matches(&to_a_tenth(ScheduleKind::Polynomial), 4, &POLYNOMIAL_2_4_10_TO_A_TENTH);
        assert_schedule_matches(&to_a_tenth(ScheduleKind::Wsd), 2, &WSD_2_4_4_TO_A_TENTH);
    }

    #[test]
    fn a_table_is_joined_by_straight_lines() {
        let points = ["2=1", " 4 = 0.5", "8=0"].map(str::to_owned);
        let table = LrSchedule { table: parse_table(&points).unwrap(), ..schedule(ScheduleKind::Table) };
        let rates: Vec<f64> = (0..10).map(|step| table.lr_at(step, 10, 3, 2.0)).collect();
        assert_eq!(rates, [2.0, 2.0, 2.0, 1.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
    }

    #[test]
    fn points_that_are_none_are_named() {
        for (points, part) in [
            (&["5"][..], "\"5\" is no step=factor"),
            (&["5=x"], "\"5=x\" is no step=factor"),
            (&["1=-1"], "\"1=-1\" is no step=factor"),
            (&["1=inf"], "\"1=inf\" is no step=factor"),
            (&["3=1", "3=0.5"], "\"3=0.5\" is not after"),
            (&[], "lr_table is empty"),
        ] {
            let points: Vec<String> = points.iter().map(ToString::to_string).collect();
            let message = parse_table(&points).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn no_step_of_a_run_has_rate_zero() {
        for kind in [
            ScheduleKind::Constant,
            ScheduleKind::Linear,
            ScheduleKind::Cosine,
            ScheduleKind::CosineWithRestarts,
            ScheduleKind::Polynomial,
            ScheduleKind::Wsd,
        ] {
            let schedule = schedule(kind);
            for (total, warmup) in [(1, 0), (1, 1), (2, 1), (7, 3), (3, 9)] {
                assert!((0..total).all(|step| schedule.lr_at(step, total, warmup, 1.0) > 0.0));
            }
        }
    }

    #[test]
    fn after_the_end_the_rate_stays() {
        assert_eq!(schedule(ScheduleKind::Linear).lr_at(99, 10, 2, 1.0), 0.0);
        assert_eq!(schedule(ScheduleKind::Cosine).lr_at(99, 10, 2, 1.0), 0.0);
        assert_eq!(schedule(ScheduleKind::Constant).lr_at(99, 10, 2, 1.0), 1.0);
        assert_eq!(schedule(ScheduleKind::Cosine).lr_at(0, 0, 0, 1.0), 1.0);
    }

    #[test]
    fn names_are_lower_case_with_underscores() {
        let names = r#"["constant","linear","cosine_with_restarts","wsd"]"#;
        let schedules: [ScheduleKind; 4] = serde_json::from_str(names).unwrap();
        assert_eq!(schedules[2], ScheduleKind::CosineWithRestarts);
        assert_eq!(serde_json::to_string(&schedules).unwrap(), names);
        assert!(serde_json::from_str::<ScheduleKind>("\"Cosine\"").is_err());
    }
}
