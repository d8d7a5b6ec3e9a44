"""Two independently trained models are far apart on the straight line and close along a trained curve (Garipov et al. 2018, figure 1)."""

from isthmus import Plan, Recalibrate, bezier, build_model, elevate, fit, fit_module, line, load_data
from isthmus.barrier import barriers
from isthmus.data import default_augment
from isthmus.geometry.gram import distance, length
from isthmus.probes import Clean
from isthmus.scan import grid, scan

data = load_data("digits")
augment = default_augment("digits", data.input_shape)
plan = Plan(steps=150, batch_size=64, augment=augment)
models = []
for seed in range(2):
    fresh = build_model("cnn", num_classes=10, input_shape=data.input_shape, width=8, seed=seed)
    model, _ = fit_module(fresh, data.train, plan, seed=seed)
    models.append(model)

straight = line(models)
curve = fit(bezier(models), data.train, plan, seed=2).bridge
settle = Recalibrate(data.train)  # between the ends BatchNorm statistics belong to neither
tables = {}
for name, bridge in {"line": straight, "curve": curve}.items():
    tables[name] = scan(bridge, grid(bridge.basis, 11), [Clean(data.test)], settle=settle)
    worst = barriers(tables[name], value="test_error")["frankle"]
    print(f"{name}: barrier {worst.value:.1f} points at t = {worst.t:.1f} ({worst.definition})")
print(f"length of the curve over the chord: {length(curve) / distance(curve, 0.0, 1.0):.3f}")

barrier = {name: barriers(table, value="test_error")["frankle"].value for name, table in tables.items()}
assert barrier["line"] > 20, barrier
assert barrier["curve"] < barrier["line"] / 2, barrier
assert (elevate(curve).theta(0.3) - curve.theta(0.3)).abs().max() < 1e-5  # a higher degree, the same curve
