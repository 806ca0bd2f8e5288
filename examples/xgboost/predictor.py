"""Whether a pump will need service within a week: XGBoost behind a plain class."""

import xgboost


class Pump:
    """The probability of service; the first axis of every array is the batch."""

    def load(self, folder):
        """Read the trees from XGBoost's own format, which holds data alone."""
        self.trees = xgboost.Booster(model_file=folder / "model.ubj")

    def predict(self, readings):
        """The probability for readings (batch, 5) of hours, bar, degrees, vibration, starts; NaN is not measured."""
        return {"service": self.trees.inplace_predict(readings)}
