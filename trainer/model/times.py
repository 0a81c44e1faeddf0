"""Times as ticks of 10 ms, and two forms of a distribution over all 1,001 of them that a head may give."""

import abc
import math

import numpy as np
import tensorflow as tf

from sostenuto.music.notes import MAX_TICK, TICK_US
from trainer.config import Config
from trainer.model.categorical import categorical
from trainer.model.time_bins import BIN_STARTS, BIN_WIDTHS, BINS

_BIN_OF_TICK = np.repeat(np.arange(BINS, dtype=np.int32), BIN_WIDTHS)

# On the axis of the mixture tick t lies between log(t) and log(t + 1): both 10 ms and 10 s are resolved, and the first
# and the last tick take all that is beyond. What stands for infinity must not make 0 * infinity in a gradient.
_INFINITY = 1e9
_EDGES = np.concatenate([[-_INFINITY], np.log(np.arange(1, MAX_TICK + 1)), [_INFINITY]])

_FIRST_CENTRE_FROM = -1.0  # where the components' range begins: the first ones stand for tick 0, which ends at 0
# Logarithms of a component's least and largest scale. The least tells times of seconds apart by a hundredth, and may
# give nearly all to any one tick below 200 ms.
_SHARPEST, _WIDEST = -5.0, 3.0


def ticks(microseconds: tf.Tensor) -> tf.Tensor:
    """Times on the 10 ms grid, as `sostenuto.music.notes.ticks`.

    Args:
        microseconds: int32 of any shape, not negative.

    Returns:
        int32 of the same shape.
    """
    # Cut first: the longest times are so near the end of int32 that half a tick more would overflow.
    return (tf.minimum(microseconds, MAX_TICK * TICK_US) + TICK_US // 2) // TICK_US


def bins(microseconds: tf.Tensor) -> tf.Tensor:
    """The bin of each time.

    Args:
        microseconds: int32 of any shape, not negative.

    Returns:
        int32 of the same shape, 0 to `BINS` - 1.
    """
    return tf.gather(_BIN_OF_TICK, ticks(microseconds))


class TimeDistribution(abc.ABC):
    """What a head's outputs say of a time: a probability for each tick, which sum to one.

    Attributes:
        size: columns of the head's outputs.
    """

    size: int

    @abc.abstractmethod
    def nats(self, outputs: tf.Tensor, microseconds: tf.Tensor) -> tf.Tensor:
        """The negative log probability of each time's tick.

        Args:
            outputs: `[..., size]`.
            microseconds: int32 `[...]`.

        Returns:
            `[...]`.
        """

    @abc.abstractmethod
    def tick_probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        """The probabilities of all ticks, `[..., MAX_TICK + 1]`, from outputs `[..., size]`."""

    @abc.abstractmethod
    def median(self, outputs: tf.Tensor) -> tf.Tensor:
        """The first tick up to which the probabilities sum to a half, int32 `[...]`, from outputs `[..., size]`."""

    @abc.abstractmethod
    def sample(
        self,
        outputs: tf.Tensor,
        uniform: tf.Tensor,
        temperature: tf.Tensor,
        top_p: tf.Tensor | None = None,
        *,
        within: tf.Tensor,
    ) -> tf.Tensor:
        """Draws a time for each voice: first its bin, then a tick of the bin.

        Args:
            outputs: `[voices, size]`.
            uniform: `[voices]` in [0, 1), draws the bin.
            temperature: scalar, as `draws.categorical` says, of the probabilities of the bins.
            top_p: likewise a scalar, or None.
            within: `[voices]` in [0, 1), draws among the ticks of a bin, as likely as they are.

        Returns:
            Microseconds of the tick, int32 `[voices]`.
        """


class LogBins(TimeDistribution):
    """A softmax over logarithmic bins, whose ticks are equally likely within each."""

    size = BINS

    def nats(self, outputs: tf.Tensor, microseconds: tf.Tensor) -> tf.Tensor:
        """See `TimeDistribution`."""
        label = bins(microseconds)
        log_width = tf.gather(tf.math.log(tf.constant(BIN_WIDTHS, outputs.dtype)), label)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=outputs) + log_width

    def tick_probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        """See `TimeDistribution`."""
        share = tf.nn.softmax(outputs) / tf.constant(BIN_WIDTHS, outputs.dtype)
        return tf.gather(share, _BIN_OF_TICK, axis=-1)

    def median(self, outputs: tf.Tensor) -> tf.Tensor:
        """See `TimeDistribution`."""
        cumulative = tf.cumsum(self.tick_probabilities(outputs), axis=-1)
        return tf.reduce_sum(tf.cast(cumulative < 0.5, tf.int32), axis=-1)

    def sample(
        self,
        outputs: tf.Tensor,
        uniform: tf.Tensor,
        temperature: tf.Tensor,
        top_p: tf.Tensor | None = None,
        *,
        within: tf.Tensor,
    ) -> tf.Tensor:
        """See `TimeDistribution`."""
        chosen = categorical(outputs, uniform, temperature, top_p)
        width = tf.gather(tf.constant(BIN_WIDTHS), chosen)
        place = tf.cast(within * tf.cast(width, within.dtype), tf.int32)
        return (tf.gather(tf.constant(BIN_STARTS), chosen) + tf.minimum(place, width - 1)) * TICK_US


class LogisticMixture(TimeDistribution):
    """A mixture of logistic distributions of the time's logarithm, discretised.

    A tick has what the distribution functions gain between its edges, as in PixelCNN++ (Salimans et al. 2017,
    arXiv:1701.05517); there the axis is linear. The outputs are, one after the other, the components' weights as
    logits, locations and logarithms of scales; at 0, equal components are spread over all ticks.

    Args:
        components: how many.
    """

    def __init__(self, components: int) -> None:
        self.size = 3 * components
        spacing = (_EDGES[MAX_TICK] - _FIRST_CENTRE_FROM) / components
        self._centres = _FIRST_CENTRE_FROM + spacing * (np.arange(components) + 0.5)
        share = (math.log(spacing / 2) - _SHARPEST) / (_WIDEST - _SHARPEST)
        self._scale_offset = math.log(share / (1 - share))

    def nats(self, outputs: tf.Tensor, microseconds: tf.Tensor) -> tf.Tensor:
        """See `TimeDistribution`."""
        tick = ticks(microseconds)
        low, high = self._edges(tick, outputs.dtype), self._edges(tick + 1, outputs.dtype)
        log_weight, location, sharpness = self._components(outputs)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): so nothing cancels, in neither tail. The
        # difference of two edges is exact, and so what ticks gain adds up to 1, however sharp or wide a component is.
        gained = (
            tf.math.log_sigmoid((high - location) * sharpness)
            + tf.math.log_sigmoid((location - low) * sharpness)
            + tf.math.log(-tf.math.expm1((low - high) * sharpness))
        )
        return -tf.reduce_logsumexp(log_weight + gained, axis=-1)

    def tick_probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        """See `TimeDistribution`; takes memory for `[..., MAX_TICK + 1, components]`."""
        return self._between(outputs, tf.range(MAX_TICK + 2))

    def median(self, outputs: tf.Tensor) -> tf.Tensor:
        """See `TimeDistribution`."""
        # By halving, since all ticks of all notes would take a thousand times the memory of the outputs.
        log_weight, location, sharpness = self._components(outputs)
        median = tf.zeros(tf.shape(outputs)[:-1], tf.int32)
        for place in reversed(range(MAX_TICK.bit_length())):
            higher = median + (1 << place)
            edge = self._edges(tf.minimum(higher, MAX_TICK + 1), outputs.dtype)
            below = tf.reduce_sum(tf.exp(log_weight) * tf.sigmoid((edge - location) * sharpness), axis=-1)
            median = tf.where(below < 0.5, higher, median)
        return median

    def sample(
        self,
        outputs: tf.Tensor,
        uniform: tf.Tensor,
        temperature: tf.Tensor,
        top_p: tf.Tensor | None = None,
        *,
        within: tf.Tensor,
    ) -> tf.Tensor:
        """See `TimeDistribution`."""
        # Of bins and then within one: a seventh of the work of all ticks, and temperature and top_p mean what they mean
        # in the other form.
        by_bin = self._between(outputs, tf.constant([*BIN_STARTS, MAX_TICK + 1]))
        chosen = categorical(tf.math.log(by_bin), uniform, temperature, top_p)
        start, width = tf.gather(tf.constant(BIN_STARTS), chosen), tf.gather(tf.constant(BIN_WIDTHS), chosen)
        # Behind the bin's end ticks are of no width, and have no probability.
        place = tf.minimum(tf.range(BIN_WIDTHS.max() + 1), width[:, tf.newaxis])
        by_tick = self._between(outputs, start[:, tf.newaxis] + place)
        drawn = categorical(tf.math.log(by_tick), within, tf.ones([], outputs.dtype))
        return (start + tf.minimum(drawn, width - 1)) * TICK_US

    def _components(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Log weights, locations, and one over the scales: `[..., components]` each."""
        weight, location, scale = tf.split(outputs, 3, axis=-1)
        # Bounded smoothly, so that a gradient leads back from either bound; half way, an output of 1 is a factor of e.
        span = _WIDEST - _SHARPEST
        log_scale = _SHARPEST + span * tf.sigmoid(self._scale_offset + scale * (4 / span))
        return tf.nn.log_softmax(weight), location + tf.constant(self._centres, outputs.dtype), tf.exp(-log_scale)

    def _between(self, outputs: tf.Tensor, tick: tf.Tensor) -> tf.Tensor:
        """The probabilities of the ticks from each of some to before the next of them.

        Args:
            outputs: `[..., size]`.
            tick: int32 `[n]`, or `[..., n]`, ascending.

        Returns:
            `[..., n - 1]`.
        """
        log_weight, location, sharpness = self._components(outputs)
        location, sharpness = location[..., tf.newaxis], sharpness[..., tf.newaxis]
        edges = tf.linalg.matrix_transpose(self._edges(tick, outputs.dtype))
        at_edges = (edges - location) * sharpness
        # As in `nats`, with a sixth of the exponentials, which take the time here: both sigmoids of an edge from one,
        # and 1 - exp(-2h) as 2 tanh(h) / (1 + tanh(h)).
        tail = tf.exp(-tf.abs(at_edges))
        far, near = tail / (1 + tail), 1 / (1 + tail)
        below, above = tf.where(at_edges < 0, far, near), tf.where(at_edges < 0, near, far)
        half = tf.tanh((edges[..., 1:] - edges[..., :-1]) * (sharpness / 2))
        gained = below[..., 1:] * above[..., :-1] * (2 * half / (1 + half))
        # A product, since XLA makes a slower loop of tf.reduce_sum.
        return tf.squeeze(tf.matmul(tf.exp(log_weight)[..., tf.newaxis, :], gained), axis=-2)

    def _edges(self, tick: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Where each tick begins on the axis, and the one before it ends: `[..., 1]`."""
        return tf.gather(tf.constant(_EDGES, dtype), tick)[..., tf.newaxis]


def time_distribution(config: Config) -> TimeDistribution:
    """The form that the config chose."""
    return LogBins() if config.time_distribution == "bins" else LogisticMixture(config.mixtures)
