//! Classifications with hidden layers, trained with AdamW for more and more epochs.

use super::{Candidate, Task, Trial, WORTHWHILE, prefer_simple, sort};
use crate::adamw;
use crate::penalty::Penalty;
use crate::train::{Descent, Event, Frame, Method, Settings, WIDE_GRID};

/// Hidden nodes of a classification.
const HIDDEN_FOR_CLASSES: [usize; 4] = [8, 16, 32, 64];
/// Steps of AdamW that its epochs should add up to; each time the better half goes on to more.
const FIRST_ORDER_STEPS: [usize; 3] = [1000, 4000, 16_000];
/// No more passes over the rows than this: few rows are learnt by heart long before.
const MOST_EPOCHS: usize = 1000;
/// Weight decays that compete with AdamW's own: on few rows strong ones keep probabilities honest.
const DECAYS: [f32; 2] = [0.5, 2.0];
/// Multiply-adds of such a training at most.
const AFFORDABLE_EPOCHS: f64 = 1e10;

/// Whether AdamW competes for a classification: for hidden layers, unless the user asks for another
/// optimiser or for penalties that it does not know.
pub(super) fn takes_first_order(settings: &Settings) -> bool {
    let hidden = settings.width.as_ref().is_none_or(|width| width.len() > 2);
    let penalised = settings.roughness.is_some() || settings.lamb.is_some_and(|lamb| lamb > 0.0);
    hidden && !penalised && settings.optimizer.is_none()
}

impl Trial<'_> {
    /// Networks with a hidden layer, or of the width that is asked for, trained with AdamW; the
    /// better half goes on to more epochs while that helps, then the best to more weight decay.
    /// Best first.
    pub(super) fn by_epochs(
        &self,
        settings: &Settings,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Vec<Candidate> {
        let train = &self.folds[0].0;
        let grids = settings.grid.clone().unwrap_or_else(|| vec![WIDE_GRID]);
        let mut shapes = match &settings.width {
            Some(width) => vec![width.clone()],
            None => HIDDEN_FOR_CLASSES
                .map(|hidden| vec![train.inputs, hidden, train.outputs])
                .to_vec(),
        };
        let of = 2 * shapes.len() + DECAYS.len();
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut evaluate = |shapes: &[Vec<usize>], descent: Descent, done: usize| {
            let frame = Frame {
                descent,
                ..self.frame.clone()
            };
            let tasks: Vec<Task> = shapes
                .iter()
                .map(|width| Task {
                    width: width.clone(),
                    starts: Vec::new(),
                    grids: grids.clone(),
                    penalties: vec![Penalty::default()],
                })
                .collect();
            let trial = Trial {
                frame: &frame,
                ..*self
            };
            let mut found = trial.evaluate(&tasks, done, of.max(done + tasks.len()), watch);
            // The final training begins anew, with all rows from the first epoch on.
            for candidate in &mut found {
                candidate.starts.clear();
            }
            sort(&mut found);
            found
        };
        for steps in FIRST_ORDER_STEPS {
            let each = (steps * adamw::BATCH).div_ceil(train.rows());
            let epochs = settings.steps.unwrap_or(each.min(MOST_EPOCHS));
            let is_affordable = |width: &Vec<usize>| {
                let edges: usize = width.windows(2).map(|pair| pair[0] * pair[1]).sum();
                let active = edges * (self.frame.inputs[0].degree() + 2);
                2.0 * (train.rows() * epochs) as f64 * active as f64 <= AFFORDABLE_EPOCHS
            };
            // Something is tried, whatever it costs.
            let first = candidates.is_empty().then(|| shapes[0].clone());
            shapes.retain(is_affordable);
            if shapes.is_empty() {
                shapes.extend(first);
            }
            if shapes.is_empty() {
                break;
            }
            let descent = Descent::by(Method::AdamW, Some(epochs));
            let longer = evaluate(&shapes, descent, candidates.len());
            shapes = longer
                .iter()
                .take(longer.len().div_ceil(2))
                .map(|candidate| candidate.tried.width.clone())
                .collect();
            let before = candidates.first().map(|best| best.tried.loss);
            candidates.extend(longer);
            sort(&mut candidates);
            let gained =
                before.is_none_or(|before| candidates[0].tried.loss <= before * (1.0 - WORTHWHILE));
            if !gained || epochs == MOST_EPOCHS || settings.steps.is_some() {
                break;
            }
        }
        prefer_simple(&mut candidates);
        let best = &candidates[0].tried;
        let (width, epochs) = (best.width.clone(), best.epochs);
        for weight_decay in DECAYS {
            let descent = Descent {
                weight_decay,
                ..Descent::by(Method::AdamW, epochs)
            };
            let decayed = evaluate(std::slice::from_ref(&width), descent, candidates.len());
            let better = decayed[0].tried.loss < candidates[0].tried.loss;
            let at = if better { 0 } else { candidates.len() };
            candidates.splice(at..at, decayed);
        }
        candidates
    }
}
