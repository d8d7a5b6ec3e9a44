"""Two adversarially trained models: no barrier of the loss between them, but one of the loss under attack (Zhao et al. 2020, figure 4)."""

from isthmus import Plan, Recalibrate, bezier, build_model, fit, fit_module, load_data
from isthmus.association import associate_columns
from isthmus.attacks import PGD, Threat, robustness
from isthmus.barrier import barriers
from isthmus.data import default_augment
from isthmus.probes import Clean, InputHessian, Robust
from isthmus.scan import grid, scan
from isthmus.training.adversary import Adversary

EPS = 0.15
data = load_data("digits")
adversary = Adversary(method="pgd", eps=(EPS,), steps=3, step=0.5)
plan = Plan(steps=250, batch_size=64, augment=default_augment("digits", data.input_shape))
models = []
for seed in range(2):
    fresh = build_model("cnn", num_classes=10, input_shape=data.input_shape, width=8, seed=seed)
    model, _ = fit_module(fresh, data.train, plan, seed=seed, objective=adversary.objective())
    models.append(model)

images, threat = data.test.take(data.test.y.argsort()[::6]), Threat("linf", EPS)  # a hundred, of every class
found = robustness(models[0], images, "apgd-ce+apgd-t:targets=3", threat)
print(found.table.to_markdown())
print("warnings:", *found.warnings or ("none",))

settle = Recalibrate(data.train)
rises = {}
for name, objective in {"standard": None, "robust": adversary.objective()}.items():
    path = fit(bezier(models), data.train, plan, seed=2, objective=objective).bridge
    probes = [Clean(images), Robust(images, threat, PGD(5, 0.4)), InputHessian(images)]
    table = scan(path, grid(path.basis, 7), probes, settle=settle)
    rises[name] = {c: barriers(table, value=c)["draxler_rise"].value for c in ("test_loss", "robust_loss")}
    related = associate_columns(table, "robust_loss", "input_eigenvalue")
    print(
        f"path of the {name} loss: rise of the loss {rises[name]['test_loss']:.2f} nat, under attack {rises[name]['robust_loss']:.2f}"
    )
    print(f"robust loss and input eigenvalue: {related}")

assert found.robust.value <= found.clean.value
assert threat.inside(images.inputs(), found.points).all()
assert rises["standard"]["robust_loss"] > 0.3, rises
assert rises["robust"]["robust_loss"] < rises["standard"]["robust_loss"] / 2, rises
