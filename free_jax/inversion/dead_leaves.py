"""Dead leaves: occluding shapes with natural colours and textures, no data used.

Images that look like nothing in particular, but whose edges, colours and scales are
distributed roughly as in photographs.  What teachers say about them covers the space
between their tasks, and asking needs no gradient.

Reference:
  Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 2001 (dead leaves);
  Baradad et al., "Learning to see by looking at noise", NeurIPS 2021.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from free_jax.images import fit_to

# Columns: brightness, blue against red, green against purple, with the spreads that
# opponent colours have in photographs (brightness varies most).
_OPPONENT = ((0.25, 0.05, 0.02), (0.25, 0.0, -0.04), (0.25, -0.05, 0.02))
_SMALLEST, _LARGEST = 0.06, 0.6  # radii, in image sides
_TEXTURE = 0.12


def draw(
    key: Key[Array, ""], image_shape: tuple[int, int, int], *, max_leaves: int = 40
) -> Float[Array, "h w c"]:
    """Draws one image.

    Args:
      key: consumed once.
      image_shape: (h, w, c); grey ones (c = 1) are drawn in colours and converted.
      max_leaves: ellipses and rectangles, of which 2 to `max_leaves` are drawn, large
        ones first; radii are uniform in the logarithm.

    Returns:
      An image in [0, 1].

    Raises:
      ValueError: images of other channels than one or three.
    """
    h, w, channels = image_shape
    if channels not in (1, 3):
        raise ValueError(
            f"image_shape={image_shape}: dead leaves have one or three channels"
        )
    (
        key_ground,
        key_ground_texture,
        key_radius,
        key_pose,
        key_colour,
        key_amount,
        key_texture,
        key_count,
    ) = jax.random.split(key, 8)
    mix = jnp.asarray(_OPPONENT).T
    rows, columns = jnp.mgrid[0:h, 0:w] / max(h, w)

    def colours(key: jax.Array, count: int) -> jax.Array:
        return 0.48 + jax.random.normal(key, (count, 3)) @ mix

    ground = colours(key_ground, 1)[0]
    canvas = ground + 4 * _TEXTURE * pink_noise(key_ground_texture, h, w, 1.2) @ mix
    span = jnp.log(_LARGEST / _SMALLEST)
    radii = _SMALLEST * jnp.exp(span * jax.random.uniform(key_radius, (max_leaves,)))
    pose = jax.random.uniform(key_pose, (5, max_leaves))
    texture = 4 * pink_noise(key_texture, h, w, 1.0) @ mix
    count = jax.random.randint(key_count, (), 2, max_leaves)

    def put(canvas: jax.Array, leaf):
        number, radius, (x, y, turn, aspect, kind), colour, amount = leaf
        angle, side = jnp.pi * turn, 0.3 + 0.7 * aspect
        right, down = columns - x, rows - y
        along = (right * jnp.cos(angle) + down * jnp.sin(angle)) / radius
        across = (down * jnp.cos(angle) - right * jnp.sin(angle)) / (radius * side)
        distance = jnp.where(
            kind < 0.5,
            jnp.hypot(along, across),
            jnp.maximum(jnp.abs(along), jnp.abs(across)),
        )
        # One pixel of soft edge.
        mask = jnp.clip((1 - distance) * radius * max(h, w) + 0.5, 0, 1)
        mask = (mask * (number < count))[..., None]
        shade = along * jnp.cos(9 * kind) + across * jnp.sin(9 * kind)
        paint = colour + amount * jnp.roll(texture, 5 * number, 0)
        paint += 0.08 * shade[..., None]
        return (1 - mask) * canvas + mask * paint, None

    leaves = (
        jnp.arange(max_leaves),
        jnp.sort(radii)[::-1],
        pose.T,
        colours(key_colour, max_leaves),
        _TEXTURE * jax.random.uniform(key_amount, (max_leaves,)),
    )
    canvas, _ = jax.lax.scan(put, canvas, leaves)
    return fit_to(jnp.clip(canvas, 0, 1)[None], image_shape)[0]


def pink_noise(
    key: Key[Array, ""], h: int, w: int, exponent: float
) -> Float[Array, "h w 3"]:
    """Noise whose amplitude falls as frequency ** -exponent; deviation one."""
    white = jnp.fft.fft2(jax.random.normal(key, (h, w, 3)), axes=(0, 1))
    frequency = jnp.hypot(jnp.fft.fftfreq(h)[:, None], jnp.fft.fftfreq(w)[None])
    falloff = jnp.where(frequency > 0, jnp.maximum(frequency, 1 / h) ** -exponent, 0.0)
    noise = jnp.fft.ifft2(white * falloff[..., None], axes=(0, 1)).real
    return noise / (noise.std() + 1e-6)
