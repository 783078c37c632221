"""In a real viewer, with a model: what a person set and accepted outlives any run."""

from __future__ import annotations

import numpy as np
from corrections import SHAPE, Corrections
from hypothesis import Phase, settings, strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from napari_biomedparse.pipeline.segment import segment

GREY = np.random.default_rng(1).integers(0, 255, SHAPE, dtype=np.uint8)
PROMPTS = ("nuclei", "mitochondria in electron microscopy")


class InViewer(Corrections):
    """With runs of the widget."""

    desk = model = None
    """What all machines share, to save time."""

    def __init__(self):
        super().__init__()
        desk = self.desk
        self.viewer, form = desk.viewer, desk.form
        self.viewer.layers.clear()
        self.viewer.add_image(GREY)
        form.overwrite.value = False
        for name, value in self.options().items():
            form.set_option(name, value)
        self.layer = desk.start()
        desk.wait_for_end()
        form.overwrite.value = True
        assert np.asarray(self.layer.data).any()

    def options(self):
        return {"instances": False, "existence_threshold": 0.3, "minimum_size": 0}

    def set_option(self, name, value):
        pause = self.desk.widget._threshold_pause

        def wait():
            self.desk.form.set_option(name, value)
            pause.start(0)
            self.desk.wait_until(lambda: not pause.isActive())
            self.desk.wait_for_end()
            pause.stop()

        self.recompute(wait)

    def over(self):
        self.desk.view.run_button.click()
        self.desk.wait_for_end()

    @rule(value=st.sampled_from([0.1, 0.3, 0.49, 0.5, 0.51, 0.9]))
    def threshold(self, value):
        self.set_option("existence_threshold", value)

    @rule(value=st.sampled_from([0, 3, 20, 1000]))
    def minimum_size(self, value):
        self.set_option("minimum_size", value)

    @rule(value=st.booleans())
    def separate(self, value):
        self.set_option("instances", value)

    @rule()
    def run_over(self):
        self.recompute(self.over)

    @rule()
    def cancel_and_resume(self):
        def cancelled():
            self.desk.view.run_button.click()
            self.desk.wait_until(self.is_planned_or_over)
            self.desk.view.cancel_button.click()
            self.desk.wait_for_end()

        self.recompute(cancelled)
        self.recompute(self.resume)

    def is_planned_or_over(self):
        run = self.desk.widget.run
        return run is None or run.task.plan is not None

    def resume(self):
        self.desk.widget.resume()
        self.desk.wait_for_end()

    @rule()
    def teach(self):
        def learn():
            self.desk.widget.teach()  # from nothing, if nothing is corrected
            self.desk.wait_for_end()
            InViewer.lessons += self.desk.widget.learned is not None

        self.recompute(learn)

    @rule()
    def forget(self):
        def text_alone():
            self.desk.widget.forget()
            self.desk.wait_for_end()

        self.recompute(text_alone)

    def teardown(self):
        """All else is what the model says."""
        self.teach()
        self.forget()
        self.separate(False)
        self.run_over()
        self.nothing_is_lost()
        options = self.desk.form.option_values()
        names = ("existence_threshold", "minimum_size")
        chosen = {name: options[name] for name in names}
        expected = segment(GREY, PROMPTS, self.model, **chosen).labels
        free = ~self.mine
        free[list(self.accepted)] = False
        np.testing.assert_array_equal(self.shown()[free], expected[free])
        assert len(self.viewer.layers) == 2


def test_two_hundred_random_corrections_outlive_any_run(desk_that, tiny_model):
    desk = desk_that(None)
    desk.form.prompts.value = "\n".join(PROMPTS)
    InViewer.desk, InViewer.model = desk, tiny_model
    InViewer.steps = InViewer.lessons = 0
    options = settings(
        max_examples=4,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(InViewer, settings=options)
    assert InViewer.steps >= 200
    assert InViewer.lessons > 0
