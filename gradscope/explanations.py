"""What each finding is: in plain words, with its mathematics, how it is measured here, its cures and its sources.

Data alone: the command line, the documentation and the dashboard show the same text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradscope.thresholds import Thresholds


@dataclass(frozen=True)
class Explanation:
    """A finding explained.

    `metric` is the name of the one that shows it best; `what` and `measured` are paragraphs; `mathematics` is a
    sequence of lines, each a formula or a sentence; `thresholds` are names of fields of `Thresholds`, where the values
    stand; `cures` come the most likely to help first; `sources` are papers, the one that the finding rests on first.
    """

    code: str
    title: str
    metric: str
    what: str
    mathematics: tuple[str, ...]
    measured: str
    thresholds: tuple[str, ...]
    cures: tuple[str, ...]
    sources: tuple[str, ...]


HOCHREITER = "Hochreiter 1991, Untersuchungen zu dynamischen neuronalen Netzen (diploma thesis, TU München)"
BENGIO = "Bengio, Simard, Frasconi 1994, Learning long-term dependencies with gradient descent is difficult"
GLOROT = "Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks"
PASCANU = "Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent neural networks"
HE = "He, Zhang, Ren, Sun 2015, Delving deep into rectifiers"
KLAMBAUER = "Klambauer, Unterthiner, Mayr, Hochreiter 2017, Self-normalizing neural networks"
MICIKEVICIUS = "Micikevicius et al. 2018, Mixed precision training"
LU = "Lu, Shin, Su, Karniadakis 2019, Dying ReLU and initialization: theory and numerical examples"
AUTOTRAINER = (
    "Zhang, Zhai, Ma, Shen 2021, AutoTrainer: an automatic DNN training problem detection and repair system (ICSE)"
)
LI = "Li et al. 2020, PyTorch distributed: experiences on accelerating data parallel training (VLDB)"
KARPATHY = "Karpathy, CS231n notes, Neural networks part 3: ratio of weights and updates, about 1e-3"

_ALL = (
    Explanation(
        code="vanishing_gradient",
        title="The gradient is lost on the way back",
        metric="grad_norm",
        what=(
            "Layers near the input get next to no gradient, so that they keep their random weights while those near "
            "the loss learn. A deep sigmoid net is the classic case: its first layers never learn what to look for, "
            "and the last ones have only noise to work with."
        ),
        mathematics=(
            "With h_l = φ(a_l), a_l = W_l h_{l-1} + b_l, and δ_l = ∂L/∂a_l:",
            "  δ_l = diag(φ'(a_l)) W_{l+1}^T δ_{l+1},   ∂L/∂W_l = δ_l h_{l-1}^T,",
            "so that ‖δ_1‖ ≤ ‖δ_n‖ · Π_l max|φ'| · ‖W_l‖: factors below 1 shrink it geometrically with depth.",
            "Sigmoid: φ' = φ (1 − φ) ≤ 1/4, so that ten of them leave at most 1e-6 of it where ‖W_l‖ ≤ 1.",
            "  Not zero-centred either: h > 0, so that one sample pushes all weights of a unit the same way.",
            "Tanh: φ' = 1 − φ² ≤ 1, zero-centred, yet near 0 where it saturates.",
            "ReLU: slope 1 above 0, which shrinks nothing, and 0 below, where it can die.",
            "Leaky ReLU: a small slope below 0, so that it cannot.",
            "ELU: smooth, goes to −α below 0, which brings the mean nearer 0.",
            "SELU: an ELU whose two constants hold mean 0 and variance 1, with LeCun-normal weights and AlphaDropout.",
            "GELU: x Φ(x), smooth, with a slope near 1 well above 0 and near 0 well below.",
        ),
        measured=(
            "The error signal at each weight layer relative to the largest among those nearest the loss, the last "
            "quarter. It is the L2 norm of the gradient of the layer, unscaled and before clipping, divided by √(1 + "
            "mean of x²) of its input x, for ∂L/∂W = δ x^T. It is a ratio within one step, so that "
            "small gradients at a small loss do not count. It has to be so in most records and in the latest, from the "
            "first layer on. It is a remark where it was not so at first, and of a net whose loss has come down, which "
            "one that was small from the start has not."
        ),
        thresholds=("vanishing_ratio", "persistence", "minimum_records"),
        cures=(
            "Replace sigmoid and tanh in hidden layers by ReLU, GELU or SELU.",
            (
                "Initialise for the activation: kaiming_normal_ for ReLU, xavier_normal_ for tanh, LeCun-normal for "
                "SELU."
            ),
            "Add normalization layers.",
            "Add residual connections: their derivative holds an identity, which does not shrink.",
        ),
        sources=(HOCHREITER, BENGIO, GLOROT, HE, AUTOTRAINER),
    ),
    Explanation(
        code="exploding_gradient",
        title="The gradient grows out of bounds",
        metric="grad_norm",
        what=(
            "The gradient grows from layer to layer on the way back, or from step to step, or it is so large at the "
            "start that the very first steps throw the weights away. The loss jumps, or becomes NaN."
        ),
        mathematics=(
            "The same product as for a vanishing gradient, with factors above 1: it grows geometrically with depth.",
            (
                "In a recurrent net the factor is one and the same matrix, T times: it explodes only if the largest "
                "singular value of W is above 1 / max|φ'|."
            ),
            (
                "At the start: plain gradient descent moves a layer by lr · ‖g‖, so that ‖g‖ / ‖w‖ above 1 / lr "
                "replaces its weights in one step."
            ),
        ),
        measured=(
            "Over depth: the error signal at a layer relative to that nearest the loss, as for a vanishing gradient. "
            "Over training: the norm of all gradients relative to its median in the first records, in two records or "
            "more, or within the steps that the flight recorder kept. At the start: ‖g‖ / ‖w‖ of the whole net is over "
            "the mark, and the run dies of a NaN within its first records or one percent of the weights changes the "
            "loss by all of it. All norms are unscaled and before clipping. Of a net whose loss has come down "
            "it is a remark."
        ),
        thresholds=("exploding_ratio", "persistence", "minimum_records"),
        cures=(
            "Lower the learning rate, or warm it up over the first steps.",
            "Clip the norm: Trainer(gradient_clip_val=1.0).",
            "Initialise for the activation (kaiming_normal_, xavier_normal_; orthogonal_ for recurrent weights).",
            "Scale the targets of a regression and the inputs to variance 1.",
            "Add normalization layers.",
        ),
        sources=(PASCANU, BENGIO, GLOROT, HE),
    ),
    Explanation(
        code="dead_relu",
        title="Rectifiers that fire no more",
        metric="dead_fraction",
        what=(
            "A unit whose input is below zero for every sample puts out zero and gets no gradient, so that nothing "
            "brings it back. Many such units make a narrower net; a whole layer of them cuts off all that stands "
            "before it."
        ),
        mathematics=(
            "ReLU: φ(a) = max(0, a), φ'(a) = 1 for a > 0 and 0 for a < 0.",
            (
                "If a = w·x + b < 0 for every x of the data, then ∂L/∂w = Σ_x δ φ'(a) x = 0 and ∂L/∂b = 0: the loss "
                "moves neither w nor b."
            ),
            "Sparse is not dead: a sound unit is zero for many samples, a dead one for all.",
        ),
        measured=(
            "The share of a rectifier's units, channels of a convolution or else features, that fired for no sample in "
            "the last recorded batches, as many as the window has. Units that came back are not dead, and a rectifier "
            "behind all parameters, as in a hinge loss, may fall silent once the loss has come down to next to nothing "
            "in the median of the latest records."
        ),
        thresholds=("dead_fraction", "dead_window", "minimum_records"),
        cures=(
            "Start again with a lower learning rate: dead units do not come back by themselves.",
            "Initialise biases at zero or slightly above.",
            "Use an activation that passes a gradient below zero: leaky ReLU, ELU or GELU.",
            "Put a normalization layer before the rectifier.",
        ),
        sources=(LU, HE),
    ),
    Explanation(
        code="selu_drift",
        title="SELU outputs outside their stated bounds",
        metric="act_var",
        what=(
            "SELU promises to keep the mean of its outputs near 0 and their variance near 1, layer after layer. "
            "Outside from the start, the net does not meet the conditions of that promise; outside later on, its "
            "weights have moved, as they do in many a net that learns well."
        ),
        mathematics=(
            "φ(a) = λ a for a > 0, λ α (e^a − 1) below, with λ ≈ 1.0507 and α ≈ 1.6733.",
            (
                "With ω = Σ_i w_i and τ = Σ_i w_i² of a unit, the map of (mean, variance) from layer to layer has the "
                "fixed point (0, 1) for ω = 0 and τ = 1, and it attracts."
            ),
            (
                "Theorem 1: for ω in [−0.1, 0.1] and τ in [0.95, 1.1] the mean stays in [−0.1, 0.1] and the variance "
                "in [0.8, 1.5]."
            ),
        ),
        measured=(
            "Mean and variance of the outputs of each SELU, over a batch. A warning if before the first update most of "
            "the SELU layers are well outside, or the first that stays outside where weights in front of it are known "
            "to be wrong; or if they leave later and the error signal vanishes or explodes over depth, too. A remark "
            "if they leave later and it does not, or if it is but a few that start outside, as a draw of weights may."
        ),
        thresholds=(
            "selu_mean",
            "selu_variance",
            "selu_initial_steps",
            "vanishing_ratio",
            "exploding_ratio",
            "persistence",
            "minimum_records",
        ),
        cures=(
            "Initialise with LeCun-normal weights, kaiming_normal_(weight, nonlinearity='linear'), and zero biases.",
            "Use AlphaDropout in place of Dropout.",
            "Standardise the inputs to mean 0 and variance 1.",
            "If it leaves later and the loss no longer falls, lower the learning rate.",
        ),
        sources=(KLAMBAUER,),
    ),
    Explanation(
        code="saturated_activation",
        title="Activations stuck at a limit",
        metric="saturated_fraction",
        what=(
            "Most outputs of a hidden sigmoid or tanh lie at one of its limits, where the curve is flat: the layer "
            "says yes or no to everything, and hardly learns."
        ),
        mathematics=(
            "sigmoid: φ' = φ (1 − φ) ≤ 1/4. Within 1 % of a limit it is below 0.01.",
            "tanh: φ' = 1 − φ² ≤ 1. Within 1 % of its range of a limit it is below 0.04.",
            "The slope is a factor of the gradient of all that stands before: δ_l = diag(φ'(a_l)) W_{l+1}^T δ_{l+1}.",
        ),
        measured=(
            "The share of outputs within 1 % of a limit, in the records in which the loss has not come down: a net "
            "that has learned may be sure of itself. It is a remark where it was not so at first and the loss never "
            "rose. An activation after the last weight layer is left out."
        ),
        thresholds=("saturated_fraction", "persistence", "minimum_records"),
        cures=(
            "Standardise the inputs to mean 0 and variance 1.",
            "Initialise with xavier_normal_, so that the inputs of the activation stay small.",
            "Put a normalization layer before the activation.",
            "Use an activation without limits: ReLU, GELU or SELU.",
        ),
        sources=(GLOROT, HOCHREITER),
    ),
    Explanation(
        code="uneven_learning_speed",
        title="Layers that learn at very different speeds",
        metric="update_ratio",
        what=(
            "One layer moves a thousand times faster than another, measured by its own size. One of the two is wrong: "
            "either the slow one stands still in all but name, or the fast one is thrown about."
        ),
        mathematics=(
            "The speed of a layer is its update ratio, ‖Δw‖ / ‖w‖ in a step.",
            (
                "Plain gradient descent has Δw = −lr · g, so that speeds differ as ‖g‖ / ‖w‖ does. Adam divides by the"
                " size of the gradient, so that ‖Δw‖ is about lr · √n for n weights: there speeds differ with the size"
                " of the weights."
            ),
        ),
        measured=(
            "The median update ratio of each weight layer, over the records in which it had a gradient and was "
            "stepped, against that of the fastest layer, while the loss has not come down after the first 40 steps. "
            "Layers whose gradient vanishes are left out."
        ),
        thresholds=("uneven_ratio", "minimum_records"),
        cures=(
            "Look for a vanishing or exploding gradient first: it has the same cause.",
            "Give the layers learning rates of their own, in parameter groups.",
            "Use Adam or AdamW in place of plain SGD.",
            "Initialise all layers by the same scheme.",
        ),
        sources=(KARPATHY, GLOROT),
    ),
    Explanation(
        code="no_gradient",
        title="A trainable layer that never gets a gradient",
        metric="no_gradient_fraction",
        what=(
            "A layer has trainable parameters, belongs to an optimizer, and yet got no gradient once. Either the loss "
            "does not depend on it, or something between them has cut the graph."
        ),
        mathematics=(
            "∂L/∂w exists only along a path of differentiable operations from w to L.",
            (
                "detach(), no_grad(), .item(), argmax and comparisons end such a path; multiplying by zero keeps it "
                "and makes the gradient exactly 0."
            ),
        ),
        measured=(
            "The share of a layer's trainable parameters whose gradient is None or exactly zero: all of them in every "
            "record. Frozen layers do not count, nor layers cut off by a dead rectifier or a vanished gradient, nor "
            "such whose weights change between records. What the first step tells is a remark: layers that no "
            "optimizer has, or that were not called."
        ),
        thresholds=("minimum_records",),
        cures=(
            "Use the output of the layer in the loss.",
            "Take out the detach(), the no_grad() block or the argmax between the layer and the loss.",
            "If it is not meant to train, say so: requires_grad_(False).",
        ),
        sources=("PyTorch documentation, Autograd mechanics: how autograd encodes the history",),
    ),
    Explanation(
        code="non_finite",
        title="A NaN or an infinity",
        metric="nonfinite",
        what=(
            "A number became NaN or infinite. From there it spreads to all that is computed from it, and after one "
            "optimizer step to all weights: such a run does not recover."
        ),
        mathematics=(
            "Born in the forward: log 0 = −∞, 0/0, ∞ − ∞, exp beyond the range of the type.",
            "Born in the backward: d√x/dx = 1/(2√x) is infinite at 0, and 0 · ∞ = NaN, also behind torch.where.",
            (
                "fp16 ends at 65,504 and has nothing between 0 and 6e-8. That is why the loss is scaled before the "
                "backward: an overflow now and then is how the scale is found, and that step is skipped."
            ),
        ),
        measured=(
            "Flags of outputs, weights and gradients of each layer, and the loss. On a CPU each step's loss is looked "
            "at, and what autograd has saved tells the first operation with a bad result; on a GPU the outputs of all "
            "modules in recorded steps. Steps that a GradScaler skipped do not count."
        ),
        thresholds=(),
        cures=(
            (
                "Clamp what goes into log, sqrt and division: x.clamp_min(1e-12). Use log_softmax and losses with "
                "logits."
            ),
            "Lower the learning rate, or clip: Trainer(gradient_clip_val=1.0).",
            "Use bf16 in place of fp16: it has the range of fp32.",
            "Look for NaN in the data, and in the weights that the training starts with.",
            "To find the operation, Trainer(detect_anomaly=True).",
        ),
        sources=(MICIKEVICIUS, PASCANU),
    ),
    Explanation(
        code="update_ratio_high",
        title="Steps that overwrite what was learned",
        metric="update_ratio",
        what=(
            "Each step moves a layer by a large part of its own size, and the loss gets no better: the learning rate "
            "is too high for it, and what one batch taught is overwritten by the next."
        ),
        mathematics=(
            "‖Δw‖ / ‖w‖ in a step; about 1e-3 is a good pace.",
            "Gradient descent on a quadratic with curvature c goes w ← (1 − lr · c) w: it diverges for lr > 2 / c.",
        ),
        measured=(
            "‖Δw‖ / ‖w‖ of each weight layer across the optimizer's step, whatever the optimizer: at or above the mark "
            "in five records in a row, while the loss rose well above that of the start, for some records or in the "
            "mean behind such steps; or in most records and in the latest, while the loss has not come down after 100 "
            "steps."
        ),
        thresholds=("update_ratio_high", "persistence", "minimum_records"),
        cures=(
            "Divide the learning rate by ten.",
            "Warm it up over the first steps.",
            (
                "If one layer alone is hit, its weights are small: initialise it larger, or give it a lower rate of "
                "its own."
            ),
        ),
        sources=(KARPATHY,),
    ),
    Explanation(
        code="update_ratio_low",
        title="Steps too small to matter",
        metric="update_ratio",
        what="The weights of a layer hardly move while there is still much to learn: the training stands still.",
        mathematics=(
            (
                "‖Δw‖ / ‖w‖ in a step; about 1e-3 is a good pace. At 1e-6 the weights have moved by at most a percent "
                "after ten thousand steps."
            ),
            (
                "fp32 has 24 bits: an update below 3e-8 of a weight rounds to nothing; in bf16, with 8 bits, one below"
                " 2e-3."
            ),
        ),
        measured=(
            "The median of ‖Δw‖ / ‖w‖ of each weight layer across the optimizer's step, whatever the optimizer, while "
            "the loss has not come down after the first 40 steps and the learning rate does not warm up."
        ),
        thresholds=("update_ratio_low", "minimum_records"),
        cures=(
            "Raise the learning rate, and see what a scheduler has made of it.",
            "Look for a vanishing gradient, or for clipping that leaves nothing.",
            "Keep the weights in fp32: precision='bf16-mixed' in place of 'bf16-true'.",
        ),
        sources=(KARPATHY, MICIKEVICIUS),
    ),
    Explanation(
        code="selu_misconfigured",
        title="A SELU net that does not meet its conditions",
        metric="act_var",
        what=(
            "SELU keeps mean 0 and variance 1 only under conditions: LeCun-normal weights, AlphaDropout, standardised "
            "inputs. One of them is not met, so that what is special about SELU is lost."
        ),
        mathematics=(
            (
                "With ω = Σ_i w_i and τ = Σ_i w_i² of a unit before a SELU, LeCun-normal weights, w ~ N(0, 1/n) for n "
                "inputs, have ω = 0 and τ = 1 in the mean."
            ),
            (
                "Kaiming-normal weights for ReLU, w ~ N(0, 2/n), have τ = 2; PyTorch's default for linear layers, w ~ "
                "U(−1/√n, 1/√n), has τ = 1/3."
            ),
            (
                "Dropout sets to 0, the mean, but keeps E[x] and raises E[x²] to 1/(1 − p); AlphaDropout sets to −λα "
                "and scales, so that mean and variance stay."
            ),
        ),
        measured=(
            "ω and τ of the weights in front of each SELU, as a mean over the units of a layer; plain Dropout after a "
            "SELU; mean and variance of the input."
        ),
        thresholds=("selu_tau", "selu_omega"),
        cures=(
            "Initialise with kaiming_normal_(weight, nonlinearity='linear') and zero biases.",
            "Use AlphaDropout in place of Dropout.",
            "Standardise the inputs to mean 0 and variance 1.",
        ),
        sources=(KLAMBAUER, GLOROT),
    ),
    Explanation(
        code="clipping_dominates",
        title="The clip value decides every step",
        metric="grad_norm_clipped",
        what=(
            "Nearly every step is clipped, and to a small part: the clip value, not the gradient, says how far a step "
            "goes. Clipping is meant for the rare step that would do harm."
        ),
        mathematics=(
            "Clipping by norm at v: g ← c · g with c = min(1, v / ‖g‖).",
            (
                "With c far below 1 in each step, plain gradient descent goes lr · v along g / ‖g‖: the rate that "
                "counts is lr · c, and it changes as ‖g‖ does. Adam divides the scale out again, as long as c stays "
                "the same."
            ),
        ),
        measured=(
            "The norm of all gradients before and after clipping, in each record: the share of steps with c < 1, and "
            "the typical c, while the steps that are left are small and the loss has not come down."
        ),
        thresholds=("clipped_share", "clip_coefficient", "minimum_records"),
        cures=(
            "Raise gradient_clip_val to a few times the usual norm, and lower the learning rate if it then diverges.",
            (
                "Find out why gradients are that large: look for exploding_gradient, unscaled targets, a loss that is "
                "summed."
            ),
            "Without a reason to clip, do without.",
        ),
        sources=(PASCANU,),
    ),
    Explanation(
        code="rank_outlier",
        title="One rank is unlike the others",
        metric="dead_fraction",
        what=(
            "In data-parallel training all ranks hold the same weights, so that their activations differ only as their "
            "data do. A rank whose units are dead, saturated or large where those of the others are not is given other "
            "data: a broken shard, a transform that was left out, samples that were sorted and not shuffled."
        ),
        mathematics=(
            "For each activation l and rank r, of the mean m, the variance v and the fractions p of what l gives out:",
            "  d_p = (p_r - p_others) / 0.2,   d_m = (m_r - m_others) / (0.5 · √v_others),",
            "  d_v = log(v_r / v_others) / log 4,",
            "averaged over about the last 20 records; |d| ≥ 1 stands out if it is 6 standard errors or more from zero.",
            "A spread below a fifth of the root mean square is taken for that much; what most ranks share is not told.",
        ),
        measured=(
            "Each rank compares its own activations with those of all the others together, which the one sum of a "
            "record tells it, and says so where it stands out. Where each rank normalises by its own batch, a part of "
            "the difference is hidden."
        ),
        thresholds=("minimum_records",),
        cures=(
            "Look at a batch of that rank: its files, its transforms, its labels.",
            "Let samples be dealt out evenly: Trainer(use_distributed_sampler=True), DataLoader(shuffle=True).",
        ),
        sources=(LI,),
    ),
)

EXPLANATIONS: Mapping[str, Explanation] = {explanation.code: explanation for explanation in _ALL}
"""All findings by their code."""


def values_of(explanation: Explanation, thresholds: Thresholds) -> dict[str, Any]:
    """Return by name the values of the thresholds that `explanation` speaks of."""
    return {name: getattr(thresholds, name) for name in explanation.thresholds}
