"""What a model computes, in words and symbols, for readers without this library."""

NORMALISE = (
    "x = (image - mean) / std in each channel, where image is RGB in [0, 1]: integers "
    "from 0 to 255 are divided by 255. Images of another size are brought to the "
    "model's by a bilinear resize first."
)
BGR = "The network then takes the channels in the order blue, green, red."
DESCRIBE = (
    "z = network(x), all C outputs; those of teacher t are z[a_t : a_(t+1)], see "
    "`heads`. p_t = softmax(z_t / temperature); r_t = trust_t * (p_t - 1 / C_t), C_t "
    "outputs of teacher t. An image's description r is r_1, r_2, ... side by side, "
    "the mean over the image and its mirror image (left and right exchanged)."
)
WHITEN = (
    "u = r / (|r| + 1e-8); d = (u - mean) @ whitening, with the arrays "
    "descriptions/mean [C] and descriptions/whitening [C, C]."
)
WHITEN_LEADING = (
    "u = r / (|r| + 1e-8) - mean; d = outside * u - (u @ whitening) @ whitening^T, "
    "with the arrays descriptions/mean [C], descriptions/whitening [C, k] and the "
    "number descriptions/outside."
)
NOT_WHITENED = "d = r: this model's descriptions are not whitened."
CLASSIFY = (
    "A class is the mean of d over its support images; an image belongs to the class "
    "of the largest cosine. Each image is treated alone."
)
ADAPT = (
    "Start with rows k_c = the class means of d / |d|, scaled to length one, and step "
    "10 times at rate 0.01 down the gradient of the support images' cross-entropy of "
    "softmax(10 * (d / |d|) @ k^T), with respect to k and to all parameters of the "
    "network; without the mirror image, batch-norm statistics fixed. Scores are then "
    "(d / |d|) @ k^T, d by the parameters so moved."
)
FEATURES = (
    "f = what enters the network's last layer `head`. This model is meta-learned: it "
    "has no descriptions, and is meant to be adapted to the support images by "
    "gradient steps on all of its parameters."
)
OF_THE_BATCH = (
    "Batch norm uses the moments of the images that are given together, so that an "
    "image's numbers depend on the others: give the images of a task together."
)
ADAPT_META = (
    "Gradient steps on the support images' cross-entropy of the head's outputs, as "
    "`notes.learner` says (rate test_lr or inner_lr, test_steps steps); protonet: "
    "the class means of f, and squared distances to them."
)


def formulas(
    *, described: bool, whitened: bool, running: bool, bgr: bool, leading: bool = False
) -> dict:
    """The steps that apply to a model, by name, in order.

    Args:
      described: the model has descriptions, otherwise features.
      whitened: its descriptions are whitened.
      running: its batch norm has statistics of its own.
      bgr: its network takes blue first.
      leading: whitened in its leading directions only, see `heads.leading_whitening`.
    """
    steps = {"normalise": f"{NORMALISE} {BGR}" if bgr else NORMALISE}
    if described:
        steps["describe"] = DESCRIBE
        how = WHITEN_LEADING if leading else WHITEN
        steps["whiten"] = how if whitened else NOT_WHITENED
        return steps | {"classify": CLASSIFY, "adapt": ADAPT}
    steps["features"] = FEATURES if running else f"{FEATURES} {OF_THE_BATCH}"
    return steps | {"adapt": ADAPT_META}
