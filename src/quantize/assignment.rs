//! Choosing one option for each of many units such that their cost stays within a budget and their loss is least.

/// Steps in which the budget is counted.
const STEPS: usize = 1 << 15;

/// What one option of a unit takes and gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    /// Bytes.
    pub cost: u64,
    /// Expected loss.
    pub loss: f64,
}

/// Index of the chosen option of each unit: the least total loss whose total cost is at most `budget`, up to the steps in
/// which costs are counted; `None` if even the cheapest options cost more.
///
/// # Panics
/// If a unit has no option.
pub(super) fn assign(units: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let cheapest = |unit: &Vec<Choice>| unit.iter().map(|choice| choice.cost).min().unwrap_or(0);
    let least: u64 = units.iter().map(cheapest).sum();
    let room = budget.checked_sub(least)?;
    let step = room.div_ceil(STEPS as u64).max(1);
    let width = usize::try_from(room / step).unwrap_or(STEPS) + 1;
    // `losses[w]`: the least loss of the units so far with `w` steps.
    let mut losses = vec![0.0; width];
    let mut chosen: Vec<Vec<u8>> = Vec::new();
    for unit in units {
        let least = cheapest(unit);
        let mut next = vec![f64::INFINITY; width];
        let mut options = vec![0_u8; width];
        for (index, choice) in unit.iter().enumerate() {
            // Rounded up, so that the sum is never above the budget.
            let steps =
                usize::try_from((choice.cost - least).div_ceil(step)).map_or(width, |steps| steps.min(width));
            let slots = next[steps..].iter_mut().zip(&mut options[steps..]);
            for ((next, option), loss) in slots.zip(&losses) {
                let loss = loss + choice.loss;
                if loss < *next {
                    (*next, *option) = (loss, index as u8);
                }
            }
        }
        losses = next;
        chosen.push(options);
    }
    let mut at = width - 1;
    let mut found = vec![0; units.len()];
    for (index, unit) in units.iter().enumerate().rev() {
        let option = usize::from(chosen[index][at]);
        found[index] = option;
        at -= ((unit[option].cost - cheapest(unit)).div_ceil(step)) as usize;
    }
    spend(units, budget, &mut found);
    let uniform = (0..units.iter().map(Vec::len).min().unwrap_or(0)).map(|option| vec![option; units.len()]);
    let affordable = uniform.filter(|found| total(units, found).cost <= budget);
    affordable.chain([found]).min_by(|a, b| total(units, a).loss.total_cmp(&total(units, b).loss))
}

/// Cost and loss of all units.
pub(super) fn total(units: &[Vec<Choice>], chosen: &[usize]) -> Choice {
    let chosen = units.iter().zip(chosen).map(|(unit, &option)| unit[option]);
    chosen.fold(Choice { cost: 0, loss: 0.0 }, |sum, choice| Choice {
        cost: sum.cost + choice.cost,
        loss: sum.loss + choice.loss,
    })
}

/// Spends what rounding left over: the best gain per byte first.
fn spend(units: &[Vec<Choice>], budget: u64, chosen: &mut [usize]) {
    let mut room = budget - total(units, chosen).cost;
    loop {
        let options = units.iter().enumerate().flat_map(|(unit, choices)| {
            let now = choices[chosen[unit]];
            choices.iter().enumerate().filter_map(move |(option, choice)| {
                let (gain, cost) = (now.loss - choice.loss, choice.cost.checked_sub(now.cost)?);
                (gain > 0.0 && cost <= room).then(|| (gain / cost.max(1) as f64, unit, option, cost))
            })
        });
        let Some((_, unit, option, cost)) = options.max_by(|a, b| a.0.total_cmp(&b.0)) else { return };
        chosen[unit] = option;
        room -= cost;
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Units with options of 2 to 8 bits, whose loss shrinks about fourfold with each bit.
    fn units(count: usize, seed: u64) -> Vec<Vec<Choice>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let unit = |_| {
            let (size, sensitivity) =
                (rng.random_range(1000..90_000_u64), rng.random_range(0.0..5.0_f64).exp());
            let of = |bits: u64| Choice {
                cost: size * bits / 8,
                loss: sensitivity * 4.0_f64.powi(-(bits as i32)) * (1.0 + 0.1 * (size % 7) as f64),
            };
            [2, 3, 4, 5, 6, 8].map(of).to_vec()
        };
        (0..count).map(unit).collect()
    }

    #[test]
    fn the_budget_is_met_and_uniform_options_are_never_better() {
        for seed in 0..6 {
            let units = units(30 + 20 * seed as usize, seed);
            for option in [1, 2, 4] {
                let uniform = total(&units, &vec![option; units.len()]);
                for budget in [uniform.cost, uniform.cost + uniform.cost / 10] {
                    let found = total(&units, &assign(&units, budget).unwrap());
                    assert!(
                        found.cost <= budget && found.cost as f64 >= 0.99 * budget as f64,
                        "{seed} {option}"
                    );
                    assert!(found.loss <= uniform.loss, "{seed} {option}: {found:?} {uniform:?}");
                }
            }
        }
    }

    #[test]
    fn it_is_the_best_there_is() {
        for seed in 0..10 {
            let units = units(5, seed);
            let budget = total(&units, &[2; 5]).cost;
            let found = total(&units, &assign(&units, budget).unwrap());
            let best = (0..6_usize.pow(5))
                .map(|code| total(&units, &[0, 1, 2, 3, 4].map(|unit| code / 6_usize.pow(unit) % 6)))
                .filter(|choice| choice.cost <= budget)
                .map(|choice| choice.loss)
                .fold(f64::INFINITY, f64::min);
            assert!(found.loss <= 1.001 * best, "{seed}: {} {best}", found.loss);
        }
    }

    #[test]
    fn a_budget_below_the_cheapest_options_has_no_answer() {
        let units = units(4, 1);
        let least = total(&units, &[0; 4]).cost;
        assert_eq!(assign(&units, least - 1), None);
        assert_eq!(assign(&units, least), Some(vec![0; 4]));
        assert_eq!(assign(&units, u64::MAX), Some(vec![5; 4]));
    }
}
