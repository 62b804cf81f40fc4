//! The learning rate of each step.
//!
//! Of `total` steps the first w warm up. With s the 0-based step, b the base rate and
//! p = (s − w) / (total − w):
//!
//! | phase                | rate                          |
//! |----------------------|-------------------------------|
//! | warm-up, s < w       | b · (s + 1) / w               |
//! | constant             | b                             |
//! | linear               | b · (1 − p)                   |
//! | cosine               | b · (1 + cos πp) / 2          |
//!
//! From step w on this is `get_{constant,linear,cosine}_schedule_with_warmup` of transformers at step
//! s. During warm-up it is theirs at step s + 1, because theirs starts with a step of rate 0 that
//! changes nothing. The decay reaches 0 at s = total, after the last step, so no step is wasted.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Falls in a straight line to 0.
    Linear,
    /// Falls along half a cosine to 0 (<https://arxiv.org/abs/1608.03983>, without restarts).
    #[default]
    Cosine,
}

impl Schedule {
    /// The learning rate of 0-based `step` out of `total`, `warmup_steps` of which warm up to `base`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "runs have fewer than 2⁵² steps")]
    pub fn lr_at(self, step: u64, total: u64, warmup_steps: u64, base: f64) -> f64 {
        if step < warmup_steps {
            return base * (step + 1) as f64 / warmup_steps as f64;
        }
        let decaying = total.saturating_sub(warmup_steps).max(1);
        let progress = ((step - warmup_steps) as f64 / decaying as f64).min(1.0);
        base * match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - progress,
            Self::Cosine => f64::midpoint(1.0, (std::f64::consts::PI * progress).cos()),
        }
    }
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

    fn assert_matches(schedule: Schedule, warmup: usize, theirs: &[f64; 11]) {
        for step in 0..=10 {
            let at = if step < warmup { step + 1 } else { step };
            let lr = schedule.lr_at(step as u64, 10, warmup as u64, 0.5);
            assert!((lr - theirs[at]).abs() < 1e-15, "step {step}: {lr}, transformers {}", theirs[at]);
        }
    }

    #[test]
    fn rates_are_those_of_transformers_without_the_idle_first_step() {
        assert_matches(Schedule::Cosine, 0, &COSINE_0_10);
        assert_matches(Schedule::Cosine, 4, &COSINE_4_10);
        assert_matches(Schedule::Linear, 4, &LINEAR_4_10);
        assert_matches(Schedule::Constant, 4, &CONSTANT_4);
    }

    #[test]
    fn no_step_of_a_run_has_rate_zero() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            for (total, warmup) in [(1, 0), (1, 1), (2, 1), (7, 3), (3, 9)] {
                assert!((0..total).all(|step| schedule.lr_at(step, total, warmup, 1.0) > 0.0));
            }
        }
    }

    #[test]
    fn after_the_end_the_rate_stays() {
        assert_eq!(Schedule::Linear.lr_at(99, 10, 2, 1.0), 0.0);
        assert_eq!(Schedule::Cosine.lr_at(99, 10, 2, 1.0), 0.0);
        assert_eq!(Schedule::Constant.lr_at(99, 10, 2, 1.0), 1.0);
        assert_eq!(Schedule::Cosine.lr_at(0, 0, 0, 1.0), 1.0);
    }

    #[test]
    fn names_are_lower_case() {
        let names = r#"["constant","linear","cosine"]"#;
        let schedules: [Schedule; 3] = serde_json::from_str(names).unwrap();
        assert_eq!(schedules, [Schedule::Constant, Schedule::Linear, Schedule::Cosine]);
        assert_eq!(serde_json::to_string(&schedules).unwrap(), names);
        assert!(serde_json::from_str::<Schedule>("\"Cosine\"").is_err());
    }
}
