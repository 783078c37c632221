"""The public names and where they live; `__init__.py` loads each on first use."""

from .data.options import SegmentOptions as SegmentOptions
from .data.prompts import (
    Prompt as Prompt,
    PromptSet as PromptSet,
    parse_prompts as parse_prompts,
)
from .data.results import (
    Segmentation as Segmentation,
    SegmentedSlices as SegmentedSlices,
)
from .data.volume import Volume as Volume
from .engine.engine import Engine as Engine
from .errors import (
    BiomedParseError as BiomedParseError,
    Cancelled as Cancelled,
    CheckpointError as CheckpointError,
    DeviceError as DeviceError,
    FormatError as FormatError,
    OptionError as OptionError,
    OutputError as OutputError,
    PromptError as PromptError,
    VolumeError as VolumeError,
    WorkerError as WorkerError,
)
from .evaluation.run import (
    Evaluation as Evaluation,
    evaluate as evaluate,
)
from .io import (
    open_file as open_file,
    open_image as open_image,
    open_volume as open_volume,
    save_labels as save_labels,
)
from .labels.measure import measure_objects as measure_objects
from .learning.teach import (
    Taught as Taught,
    teach as teach,
)
from .networks.weights import load_model as load_model
from .pipeline.deprecated import (
    Consensus as Consensus,
    segment_consensus as segment_consensus,
    segment_series as segment_series,
)
from .pipeline.recognize import (
    Recognition as Recognition,
    recognize as recognize,
)
from .pipeline.segment import (
    iter_segment as iter_segment,
    segment as segment,
    segment_lazy as segment_lazy,
)
from .runs.batch import segment_files as segment_files
from .runs.folder import Run as Run
from .runs.reproduce import reproduce as reproduce
from .runs.run import (
    FolderOptions as FolderOptions,
    segment_to_folder as segment_to_folder,
)
from .training.finetune import finetune as finetune
from .training.options import FinetuneOptions as FinetuneOptions
from .version import __version__ as __version__
