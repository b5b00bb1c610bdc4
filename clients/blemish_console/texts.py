# SPDX-License-Identifier: Apache-2.0
"""The texts of the console in one place, so that they can be translated."""

TITLE = "blemish"

# Pages
LINE = "Line"
REVIEW = "Review"
SEARCH = "Search"
DATA = "Data"
TRAIN = "Train"
MODELS = "Models"
SYSTEM = "System"

# Header
SIGN_OUT = "Sign out"
LIGHT_OR_DARK = "Light or dark"
CONNECTED = "connected"
DISCONNECTED = "not connected"
NO_SIGN_IN = "no sign-in needed"
RECONNECTING = (
    "The server at {target} does not answer. The console tries again every few seconds. ({reason})"
)

# Sign-in
SIGN_IN = "Sign in"
SIGN_IN_LEAD = "The server at {target} asks for an access token."
TOKEN = "Access token"
TOKEN_HINT = "Get one from an operator, or on the server with: blemish access grant NAME --role service"
TOKEN_MISSING = "The access token is missing; paste the one that you were given."
TOKEN_REJECTED = "The server does not accept this token; check that all of it was pasted."
SESSION_ENDED = "Your session has ended; sign in again."
SERVER_AWAY = "The server at {target} does not answer."
SERVER_AWAY_LEAD = "This page tries again every few seconds. Check that the server runs and can be reached."

# All pages
TRY_AGAIN = "Try again"
CANCEL = "Cancel"
NOT_ALLOWED = "Your role may not see this"
NOT_ALLOWED_LEAD = "Ask an operator for a token with the role {role}, then sign in with it."
FAILED = "This could not be read"
SERVER_FAILED = "The server failed: {message}; its log has the details."
NONE = "none"
UNKNOWN = "unknown"
NAME = "Your name"
NAME_MISSING = "Your name is missing; it is kept with the change."

# Verdicts
NORMAL = "normal"
ANOMALOUS = "anomalous"
NO_VERDICT = "no verdict"

# System
HEALTH = "Health"
AVAILABLE = "available"
UNAVAILABLE = "unavailable"
SERVER = "Server"
SERVER_SINCE = "version {version}, running since {since}, device {device}"
DISK = "Disk"
DISK_FREE = "{free} free of {total}"
DISK_FULL = "full"
DISK_UNKNOWN = "The server could not read the state of its disk."
WORKERS = "Workers"
WORKER = "worker"
WORKER_DETAIL = "{version}, {queues}, {jobs}"
WORKER_JOBS = "{count} running"
NO_WORKERS = "No worker runs, so jobs wait. Start one with: blemish-worker"
JOBS = "Jobs"
QUEUED = "waiting"
RUNNING = "running"
LOADED = "Loaded models"
LOADED_COLUMNS = ("version", "runtime", "images that wait")
WAITING_IMAGES = "{count} of at most {limit}"
LOADED_SIZE = "{used} of at most {limit}"
NOTHING_LOADED = "No model is loaded. The first image that names a model loads it."
INDEX = "Search index"
INDEXED_IMAGES = "indexed images"
NO_INDEX = "No model has an index yet. Index a dataset with: blemish index MODEL DATASET"
STREAMS = "Open streams"
NO_STREAMS = "No stream is open. Start one with: blemish stream FOLDER --model MODEL --camera NAME"
CALLERS = "Callers"
AUDIT = "Recent changes"
NO_AUDIT = "Nothing was changed yet. Calls that change something appear here with their caller."
AUDIT_FOR_OPERATORS = "Only operators see the audit log."
ADDRESS_CALLERS = "Without an access file, callers are known by their addresses."
STREAM_COLUMNS = ("cameras", "model", "caller", "frames/s", "frames", "dropped", "refused", "last verdict")
AUDIT_COLUMNS = ("time", "caller", "action", "resources", "status", "details")
CALLER_COLUMNS = ("caller", "changes", "failed", "last action", "last time")

# Models
NO_MODELS = "No models yet"
NO_MODELS_LEAD = "Train one with: blemish train DATASET --model-id MODEL --promote"
PRODUCTION = "in production"
SHADOW = "shadow"
PINNED = "pinned"
NO_PRODUCTION = "no version in production"
VERSION_COLUMNS = ("version", "state", "image AUROC", "threshold", "created")
CHOOSE_VERSION = "Choose a version to see its card and its report."
REPORT = "Report"
FIGURES = "Figures on the test images"
NO_FIGURES = "The dataset had no test images. Evaluate the version with: blemish evaluate MODEL DATASET"
JUDGES_BY = "Judges by"
FACTS = "Training"
AUROC = "image AUROC"
DETECTED = "defective images detected"
REJECTED = "good images rejected"
PIXEL_AUROC = "pixel AUROC"
AUPRO = "AUPRO"
THRESHOLD = "threshold"
TARGET_RATE = "target false-reject rate"
FIXED_RULE = "fixed threshold"
WARRANTED_RATE = "false-reject rate expected on good images"
HELD_OUT = "held-out good images"
AUTHOR = "set by"
DATASET = "dataset"
DETECTOR = "detector"
CREATED = "created"
SIZE = "size"
INTERVAL = "95 %: {low} to {high}"
PROMOTE = "Promote"
ROLL_BACK = "Roll back to this"
PIN = "Pin"
UNPIN = "Unpin"
START_SHADOW = "Start as shadow"
STOP_SHADOW = "Stop shadow"
CONFIRM_PROMOTION = "Promote {version}?"
CONFIRM_ROLL_BACK = "Roll back to {version}?"
PROMOTION_EFFECT = "From the next image on, {version} judges in place of {replaced}."
FIRST_PROMOTION_EFFECT = "From the next image on, {version} judges."
OWN_TARGET = "It judges by its own calibration"
KEEP_TARGET = "Keep the target of the version in production"
PROMOTED = "{version} is in production."
SHADOW_STARTED = "{version} now scores live images as the shadow."
SHADOW_STOPPED = "The shadow was stopped."
WAS_PINNED = "{version} is pinned."
WAS_UNPINNED = "{version} is no longer pinned."
AGREEMENT = "Agreement of the shadow with {production}"
NOTHING_COMPARED = "No image was compared yet"
NOTHING_COMPARED_LEAD = "The shadow scores a sample of the live images after they were answered."
SAME_VERDICT = "the same verdict, of {count} images since {since}"
BOTH_NORMAL = "normal by both"
BOTH_ANOMALOUS = "anomalous by both"
ONLY_SHADOW = "anomalous only by the shadow"
ONLY_PRODUCTION = "anomalous only by the version in production"
NOT_COMPARED = "The shadow failed to score {count} images; the log of the server has the reasons."
DIFFERENCES = "Latest frames that differ"
NO_DIFFERENCES = "Both versions have judged all frames alike."
BY_SHADOW = "shadow"
BY_PRODUCTION = "production"
SCORE_OF = "{score}, threshold {threshold}"

# Export and import of models
EXPORT_MODEL = "Export"
IMPORT_MODEL = "Import a version"
IMPORT_TITLE = "Import a version"
IMPORT_LEAD = "A file of this page's Export or of: blemish models export MODEL. It is not promoted."
IMPORT_AS = "Name of the model; empty for the exported one"
IMPORT_DROP = "Drop the file here, or press +"
IMPORT_CHECKS = "The server checks every file, and loads the version once. This can take minutes."
IMPORT_CUT = "The connection was lost; send the file again."
IMPORT_REJECTED = "The file has more than {limit}, which the server does not take; choose another one."
IMPORTED = "{version} was imported."

# Threshold of a version
THRESHOLD_CARD = "Scores and threshold"
HELD_OUT_SCORES = "held-out good images"
GOOD_SCORES = "good test images"
DEFECTIVE_SCORES = "defective test images"
THRESHOLD_FIELD = "Threshold"
TARGET_FIELD_PERCENT = "Target false rejects, %"
AS_TRAINED = "As trained"
IN_FORCE_AGAIN = "As in force"
IN_FORCE = "in force"
AT_THE_LINE = "at the line"
EXPECTED_REJECTS = "false rejects expected (90 % interval)"
EXPECTED = "{rate} ({low} to {high})"
HELD_OUT_ABOVE = "held-out good images rejected"
TEST_GOOD_ABOVE = "good test images rejected"
CLASS_FOUND = "{name} detected"
OF = "{count} of {of}"
NO_TEST_SCORES = "The training had no test images, so detections are unknown."
NOT_A_SCORE = "{text} is not a number; write a score such as 12.5"
NOT_A_TARGET = "{text} is out of range; write a rate above 0 and at most 50, in %"
FLIP_PERIOD = "Period of the kept frames"
FLIP_PERIODS = {7: "7 days", 1: "24 hours", 30: "30 days", 365: "12 months"}
FLIPS = "{count} of {kept} frames kept in the last {period} would become {verdict}."
NO_FLIPS = "None of {kept} frames kept in the last {period} would get another verdict."
FLIPS_BEFORE = "Move the line to see which of {kept} frames kept in the last {period} get another verdict."
FLIPS_WITHOUT_FRAMES = "No frame was kept in the last {period}."
FLIPS_UNAVAILABLE = "Kept frames were not compared: {reason}"
FLIPS_IN_REVIEW = "Kept frames in the review, least certain first"
CALIBRATE = "Calibrate"
CONFIRM_CALIBRATION = "Calibrate {version}?"
CALIBRATION_EFFECT = "From the next image on, the threshold is {after} in place of {before}."
CALIBRATION_LATER = (
    "The threshold of this version becomes {after} in place of {before}. It is not in production."
)
REJECTS_EFFECT = "False rejects expected: {expected}."
FOUND_EFFECT = "Defective test images detected: {after} in place of {before}, of {of}."
CONCERN = "Look again: {concern}."
ACKNOWLEDGE = "Use this threshold all the same"
ACKNOWLEDGE_MISSING = "Confirm that this threshold is meant, or cancel."
COMMENT = "Reason, kept in the history"
CALIBRATED = "{version} judges by the new threshold."

# Line
LINE_WAITING = "Waiting for the cameras of the server"
NO_CAMERAS = "No camera has sent images in the last 24 hours"
NO_CAMERAS_LEAD = (
    "Start one with: blemish stream FOLDER --model MODEL --camera NAME. It appears here by itself."
)
NO_CAMERA_MATCHES = "No camera has this text in its name"
NO_CAMERA_MATCHES_LEAD = "Change the text above, or clear it to see all cameras."
CAMERA_FILTER = "Cameras with this text in their name"
MORE_CAMERAS = "{count} more cameras are not shown; name a part of theirs in the field below."
LINE_LOST = "Not watching for {since}; reconnecting. The tiles show what was received before. ({reason})"
VERDICTS_LOST = "{count} verdicts were lost on the way to this page; their images were inspected."
SILENT_FOR = "silent for {time}"
SCORE_AGAINST = "threshold {threshold}"
FRAMES_PER_SECOND = "frames/s"
DROPPED = "dropped"
REFUSED = "refused"
HOUR_SHARE = "anomalous, last hour"
P_VALUES = "p-values of the last {count} images"
LAST_ANOMALY_AGO = "last anomaly seen here {age} ago"
NO_ANOMALY = "no anomaly since this page was opened"

# Review
MODEL = "Model"
PERIOD = "Period"
CAMERA = "Camera"
ALL_CAMERAS = "all cameras"
SHOW = "Show"
ORDER = "Order"
PERIODS = {8: "last 8 hours", 24: "last 24 hours", 168: "last 7 days", 0: "any time"}
SHOWN = {
    "to-review": "anomalous, without a label",
    "anomalous": "all anomalous",
    "all": "all kept frames",
}
ORDERS = {
    "newest": "newest first",
    "least-certain": "least certain first",
    "highest-score": "highest score first",
}
NOTHING_TO_REVIEW = "Nothing to review"
NOTHING_TO_REVIEW_LEAD = (
    "No kept frame matches. Choose a longer period or show all kept frames; streams keep frames with: "
    "blemish stream SOURCE --model MODEL --store anomalous"
)
NO_MODEL_TO_REVIEW = "No models yet, so no frame was kept."
POSITION = "{position} of {total}"
SCORE = "score"
FROM_CAMERA = "camera"
TIME = "time"
NO_LABEL = "No label"
DEFECT = "Defect"
FALSE_ALARM = "False alarm"
GOOD = "Good"
UNSURE = "Unsure"
NEXT = "Next"
UNDO = "Undo"
KEYS = "Keys: d defect, f false alarm, g good, u unsure, n next, b back, z undo, r regions, + zoom"
DEFECT_CLASS = "Class of the defect"
CLASS_MISSING = "Write the class of the defect first, for example scratch."
REGIONS = "Regions"
ZOOM = "Zoom"
UNSURE_SIGN = "unsure, at the end of the queue"
CONFIRMED_AS = "Defect: {name}"
CONFIRMED = "Defect"
LABELLED_MEANWHILE = "Another person labelled this frame meanwhile; it now shows their label."
NOTHING_TO_UNDO = "There is nothing to undo."
NEIGHBOURS = "Most similar past images"
NO_NEIGHBOURS = "The index has no other image."
QUEUE = "Queue"
UNTIL = "Up to"
NOTHING_UNTIL = "No frame of the queue is that old; the queue stays as it is."
LOAD_MORE = "Show more"
PAGE_BEFORE = "Page before"
PAGE_AFTER = "Next page"
PAGE_RANGE = "{first:,} to {last:,} of {total:,}"
SELECTED = "{count} selected"
SELECT_ALL = "Select all shown"
SELECT_NONE = "Select none"
BULK_DONE = "{count} frames labelled."
BULK_PARTLY = "{count} frames labelled; {failed} were not: {reason}"
ALL_DONE = "All frames of the queue have a label."
SUMMARY = "Summary of the shift"
SUMMARY_LEAD = (
    "{model}, {period}: {frames} kept frames, {anomalous} anomalous, {open} of these without a label"
)
SUMMARY_COLUMNS = (
    "camera",
    "frames",
    "anomalous",
    "defects",
    "false alarms",
    "good",
    "still open",
)
CLASS_COLUMNS = ("defect class", "frames")
NO_CAMERA = "without a name"
ALL = "all"
PRINT = "Print"
BACK_TO_REVIEW = "Back to the review"
NO_KEPT_FRAMES = "No frame was kept in this period."

LEARN = "Learn from these"
LEARNING = "Learning from labels"
SHOW_JOB = "Show the job"
CONFIRM_LEARN = "Learn from these labels? False alarms: {count}, good images: {good}"
LEARN_EFFECT = (
    "A training on {dataset} ({count} training images) takes these images along as good ones. It publishes "
    "a new version of {model}; {version} goes on judging."
)
LEARN_COLUMNS = ("camera", "false alarms", "good")
LEARN_SCOPE = (
    "These are all labelled images in the index of {model}, also those of other cameras and earlier days. "
    "Equal images count once. When the training has ended, this page offers the new version as the shadow."
)
FROM_DATASET = "dataset {dataset}"
LEFT_OUT_OF_LEARNING = "{count} more labelled images belong to {dataset} and are left out."
SETTINGS = "settings"
SETTINGS_KEPT = "those of {version}"
SETTINGS_LOST = "defaults, because the training job of {version} is no longer stored"
NOTHING_TO_LEARN = "No image is labelled as a false alarm or good; label some first, with the keys f and g."
ONLY_OWN_LABELS = (
    "All labelled images belong to the training dataset already; label kept frames first, with the keys f "
    "and g."
)
LEARN_DATASET_GONE = (
    "The dataset {dataset} was deleted; train on another one with: "
    "blemish train DATASET --model-id {model} --false-alarms-of {model}"
)
OFFER_NEW = "{version} is ready. As the shadow it judges live images without affecting any answer."
OFFER_SHADOW = "{version} judges live images as the shadow. Its page has the agreement with {production}."
OFFER_PRODUCTION = "{version} is in production."
OFFER_OLDER = "{version} is older than {production}, which is in production."
OFFER_ALONE = "{version} is ready. No version is in production, so it can be promoted on the page Models."
OFFER_DELETED = "{version} was deleted."
OFFER_REPLACES = "At present {shadow} is the shadow; it would be replaced."

# Train
TRAINING = "Training of {dataset} with {detector}"
EVALUATION = "Evaluation of {model} on {dataset}"
INDEXING = "Indexing of {dataset} for {model}"
KEPT_FRAMES = "kept frames"
WORKER_COLUMNS = ("worker", "queues", "devices", "jobs")
JOB_COLUMNS = ("job", "state", "progress", "created")
PHASE_COLUMNS = ("phase", "progress", "done", "time left")
NO_JOBS = "No jobs yet"
NO_JOBS_LEAD = "Start a training with the form, or with: blemish train DATASET"
CHOOSE_JOB = "Choose a job to see its progress and its log."
NEW_TRAINING = "New training"
SUCCEEDED = "succeeded"
JOB_FAILED = "failed"
JOB_CANCELLED = "cancelled"
CANCELLING = "being cancelled"
QUEUE_POSITION = "number {position} in the queue"
TIME_LEFT = "{time} left"
CANCEL_JOB = "Cancel the job"
CONFIRM_CANCEL = "Cancel this job?"
CANCEL_EFFECT = "Its work so far is lost, and no version is published."
KEEP_RUNNING = "Let it run"
CANCEL_SENT = "The job is being cancelled."
SHOW_VERSION = "Show {version}"
PHASES = "Phases"
LOG = "Log"
NO_LOG = "The log begins when a worker starts the job."
TRAINED_MODEL = "model"
JOB = "job"
STARTED = "started"
ENDED = "ended"
ATTEMPT = "attempt"
NO_DATASETS = "No dataset yet"
NO_DATASETS_LEAD = "Upload a folder of images first: blemish dataset upload DATASET FOLDER"
DATASET_FIELD = "Dataset"
DATASET_CHOICE = "{dataset} ({count} training images)"
DETECTOR_FIELD = "Detector"
MODEL_FIELD = "Model"
MODEL_FIELD_LEAD = "Model that receives the new version. Defaults to the dataset and the detector."
SETTINGS_OF = "Settings of {detector}"
THRESHOLD_SETTINGS = "Threshold and promotion"
LIMITS = "Priority and limits of the job"
DEFAULT = "default"
YES = "yes"
NO = "no"
MINUTES = "{name} (minutes)"
SEED_FIELD = "Seed"
SEED_LEAD = "Defaults to 0. The same seed, settings and images give the same model."
TARGET_FIELD = "Target false-reject rate"
PROMOTE_FIELD = "Promote the version when it is published"
TARGET_CHOICE = "Calibration after the promotion"
TARGET_UNCHANGED = "Ask me later: do not promote if a person's calibration would be lost"
LEARN_FIELD = "Learn labelled images of"
PRIORITY_FIELD = "Priority"
PRIORITY_LEAD = "Among jobs that wait for the same workers. Within a priority, the oldest job runs first."
PRIORITIES = ("high", "normal", "low")
RUN_TIME_FIELD = "Longest run time (minutes)"
RUN_TIME_LEAD = "The job fails if an attempt takes longer. Defaults to no limit."
MEMORY_FIELD = "Most memory (GiB)"
MEMORY_LEAD = "The job fails if its process takes more. Defaults to no limit."
REGION_TITLE = "Region to inspect"
REGION_LEAD = (
    "Draw regions to ignore, or the region to inspect, on a training image. Ignored pixels affect no "
    "score, threshold or map. Without a drawing the model looks at the whole image."
)
REGION_REFERENCE = "Image to draw on"
REGION_NO_IMAGE = "The dataset has no training images"
REGION_NO_IMAGE_LEAD = "Upload good images first."
REGION_SHARE = "{share} of the image ignored"
REGION_ALL = "whole image inspected"
REGION_MOVES = "The region moves with the part"
REGION_MOVES_LEAD = (
    "For parts that lie shifted or slightly turned in the image. The part is found by comparison with the "
    "image above."
)
JOB_REGION = "region"
JOB_REFERENCE = "region drawn on"
START_TRAINING = "Start the training"
TRAINING_STARTED = "The training was accepted."
DATASET_MISSING = "Choose a dataset."
NOT_WHOLE = "{text} is not a whole number; write digits only, or leave it empty for the default"
NOT_WITHIN = "{text} is out of range; use {low} to {high}, or leave it empty for the default"
NOT_A_NUMBER = "{text} is not a number; write one such as 0.1, or leave it empty for the default"
NOT_POSITIVE = "{text} is out of range; use more than 0 and at most {high}, or leave it empty"

# Compare
COMPARE = "Compare"
COMPARE_WITH = "Compare with {production}"
FIRST_VERSION = "Version"
SECOND_VERSION = "Compared with"
SWAP = "Swap"
AND = " and "
NOT_COMPARED = "Not compared"
COMPARE_TWO = "Choose two different versions. A model with one version needs another training first."
COMPARE_DATASETS = (
    "{first} was trained on {first_dataset} and {second} on {second_dataset}, so their test images differ. "
    "Choose the dataset on whose test images to compare them."
)
COMPARE_UNMEASURED = (
    "No evaluation on the present test images of {dataset}: {versions}. Evaluate on these images first."
)
COMPARE_LEFT_OUT = (
    "The versions were evaluated on different test images of {dataset}: {count} images have a score of one "
    "version only. Evaluate both on the present images."
)
COMPARE_ON = "Compare on {dataset}"
COMPARE_COMMON = "Compare on the {count} common images"
EVALUATE = "Evaluate {versions} on {dataset}"
EVALUATION_RUNS = "The evaluation runs; the comparison appears here when it has ended."
ASK_FOR_EVALUATION = "Ask an operator to start the evaluation."
COMPARED_ON = (
    "{first} at threshold {first_threshold} and {second} at {second_threshold}, on {good} good and "
    "{defective} defective test images of {dataset}"
)
LEFT_OUT = "{count} images are left out, because only one of the versions has scored them."
METRIC = "metric"
DIFFERENCE = "difference"
INTERVALS_LEAD = (
    "In parentheses are 95 % intervals; those of differences come from draws of the same images for both. "
    "p is that of McNemar's exact test."
)
BY_CLASS = "Detected by defect class"
DEFECT_CLASS_COLUMN = "class"
IMAGES = "images"
FOUND_ONLY_BY = "Defective, found only by {version}"
REJECTED_ONLY_BY = "Good, rejected only by {version}"
MORE_IMAGES = "and {count} more"
P_VALUE = "p"
VALUE_AND_RANGE = "{value} ({low} to {high})"
DIFFERING_IMAGES = "Images on which they differ"
WITHIN_CHANCE = "within chance"
BETTER = "better"
WORSE = "worse"

# Search
SEARCH_QUERY = "Query"
SEARCH_MODEL = "Model"
SEARCH_SIZE = "{count} indexed"
SEARCH_NO_MODEL = "No model to search with"
SEARCH_NO_QUERY = "No image yet"
SEARCH_NO_QUERY_LEAD = "Drop one below or press +, or open a neighbour of an item."
SEARCH_DROP = "Drop an image here, or press +"
SEARCH_TOO_LARGE = "The file is not an image, or is too large; choose another one."
SEARCH_BOX_HINT = "Draw a box, an outline or strokes on the image to search for that part."
SEARCH_WHOLE = "Whole image"
SEARCH_SCORE = "score {score}"
SEARCH_FILTER = "Filter"
SEARCH_CLASS = "Class"
SEARCH_CAMERA = "Camera"
SEARCH_VERDICT = "Verdict"
SEARCH_LABEL = "Label"
SEARCH_TIME = "Time"
SEARCH_LIMIT = "Hits"
SEARCH_ANY = "any"
SEARCH_VERDICTS = {"normal": NORMAL, "anomalous": ANOMALOUS}
SEARCH_LABELS = {
    "confirmed": CONFIRMED,
    "false-alarm": FALSE_ALARM,
    "good": GOOD,
    "none": NO_LABEL,
}
SEARCH_PERIODS = {0: "any", 1: "last hour", 8: "last 8 hours", 24: "last 24 hours", 168: "last 7 days"}
SEARCH_WHERE = "Filter as text"
SEARCH_WHERE_HINT = "The pickers write this text, and you can change it. Enter searches."
SEARCH_HITS = "Most similar images"
SEARCH_RUNNING = "Searching"
SEARCH_COUNT = "{count} hits, the most similar first"
SEARCH_UNSEEN = "{count} candidates were not compared in time; narrow the search with the filter"
SEARCH_NEIGHBOURS = "Neighbours"
SEARCH_START = "Nothing searched for yet"
SEARCH_START_LEAD = "Drop an image on the left. Similar past images appear here as they are found."
SEARCH_NO_INDEX = "Nothing is indexed yet"
SEARCH_NO_INDEX_LEAD = "Add the images of a dataset. Frames that a stream keeps are added, too."
START_INDEXING = "Index images"
SEARCH_NO_HIT = "No indexed image matches"
SEARCH_NO_HIT_LEAD = "Remove a condition of the filter, or choose another model."
SEARCH_FAULT = "The filter has a fault"
SEARCH_FAULT_LEAD = "Correct the text at the place that is marked below it."
SEARCH_FAILED = "The search failed"

# Data
DATA_TITLE = "Datasets"
DATA_FIND = "Find by name"
DATA_NEW = "New dataset"
DATA_NONE = "No datasets yet"
DATA_NONE_LEAD = "Create one, then drop images into it."
DATA_NONE_LEAD_READER = "Ask an operator to upload images, or get a token with that role."
DATA_NONE_FOUND = "No dataset has such a name"
DATA_NONE_FOUND_LEAD = "Change the text above the list."
DATA_COUNTS = "{train} train · {good} test good · {bad} defective"
DATA_IMAGES = {True: "{count:,} image", False: "{count:,} images"}
DATA_CLASSES = {True: "{count:,} defect class", False: "{count:,} defect classes"}
DATA_MASKS = {True: "{count:,} mask", False: "{count:,} masks"}
DATA_CATEGORY = "Category"
DATA_CATEGORY_HINT = "Kind of surface. Empty takes the name."
DATA_CREATED = "created {time}, {age} ago"
DATA_TRAINED = "Trained from it: {models}"
DATA_TRAINED_MORE = "{models} and {count} more"
DATA_NOT_TRAINED = "No model was trained from it yet"
DATA_NOTES = "Notes"
DATA_ALL = "All datasets"
DATA_NAME = "Name"
DATA_NAME_HINT = "1 to 63 lower-case letters, digits, - and _"
DATA_CREATE = "Create"
DATA_CREATED_NOW = "{name} was created"
DATA_DELETE = "Delete dataset"
DATA_DELETE_TITLE = "Delete {name}?"
DATA_DELETE_EFFECT = (
    "All {count:,} images and masks are deleted, with their entries in every index. Models that were "
    "trained from it stay. Type the name to confirm."
)
DATA_DELETED = "{name} was deleted"
DATA_TRAIN_GOOD = "train good"
DATA_TEST_GOOD = "test good"
DATA_NO_IMAGES = "No images of this class yet"
DATA_NO_IMAGES_LEAD = "Drop images or a folder on this page."
DATA_NO_IMAGES_LEAD_READER = "Operators can upload images."
DATA_CUT = "The first {count:,} images are listed."
DATA_SCORES = "Scores by"
DATA_NO_SCORES = "no scores"
DATA_SCORES_OF_TRAINING = (
    "Highest scores first, from the training of {model}. Images that it learned score lower than new ones."
)
DATA_SCORES_OF_INDEX = "Highest scores first, from the index of {model}."
DATA_NOT_TRAINED_SCORES = (
    "{model} has no scores of these images. Choose a model that was trained from this dataset."
)
DATA_NOT_INDEXED = "{model} has no scores of these images. Indexing measures them, and search finds them."
DATA_WITHOUT_SCORE = "no score"
DATA_LEARNED = "learned"
DATA_SELECT_PAGE = "Select page"
DATA_SELECT_NONE = "Clear selection"
DATA_SELECT_ONE = "Select {name}"
DATA_SELECTED = "{count:,} selected"
DATA_REMOVE = "Remove"
DATA_REMOVE_TITLE = {True: "Remove {count:,} image?", False: "Remove {count:,} images?"}
DATA_REMOVE_EFFECT = (
    "The files are deleted, with their masks and their entries in every index. Models that were trained "
    "on them stay as they are. This cannot be undone."
)
DATA_REMOVED = {True: "{count:,} file was removed", False: "{count:,} files were removed"}
DATA_OPEN = "Open {name}"
DATA_MOVE = "Move"
DATA_MOVE_TITLE = {True: "Move {count:,} image", False: "Move {count:,} images"}
DATA_MOVE_EFFECT = (
    "Masks move with defective images, and are deleted if the images become good. Entries of the images in "
    "every index are deleted with their labels; index the dataset again afterwards."
)
DATA_MOVED = {True: "{count:,} image was moved", False: "{count:,} images were moved"}
DATA_MASKS_DELETED = {True: "{count:,} mask was deleted", False: "{count:,} masks were deleted"}
DATA_MASKS_ALONE = {True: "{count:,} mask matches no image", False: "{count:,} masks match no image"}
DATA_IMAGES_ALONE = {
    True: "{count:,} defective image has no mask",
    False: "{count:,} defective images have no mask",
}
DATA_NAMED_MORE = " and {count:,} more"
DATA_SORT = "Order"
DATA_SORTS = {"name": "by name"}

# Drawing
DRAWING_LABEL = "Image to draw on. Ctrl+Z takes a step back, Delete removes all, plus and minus zoom."
DRAW_TOOLS = {
    "box": "Box: drag from corner to corner",
    "polygon": "Polygon: click its corners, then the first one again",
    "brush": "Brush",
    "eraser": "Eraser",
    "move": "Move the image",
}
DRAW_TOOL_NAMES = {"box": "Box", "polygon": "Polygon", "brush": "Brush", "eraser": "Eraser", "move": "Move"}
DRAW_LAYERS = {
    "ignore": "Draw regions to ignore",
    "inspect": "Draw the region to inspect; the rest is ignored",
}
DRAW_LAYER_NAMES = {"ignore": "Ignore", "inspect": "Inspect"}
DRAW_SIZES = "Width of the brush"
DRAW_SIZE = "{size} px"
DRAW_UNDO = "Undo (Ctrl+Z)"
DRAW_CLEAR = "Remove all (Delete)"
DRAW_ZOOM_IN = "Zoom in (+)"
DRAW_ZOOM_OUT = "Zoom out (-)"
DRAW_FIT = "Fit the image (0)"

# Image of a dataset
DATA_IMAGE = "Image"
DATA_IMAGE_NONE = "No image was chosen"
DATA_IMAGE_NONE_LEAD = "Open one from a gallery on the page Data."
DATA_IMAGE_BACK = "Back to {dataset}"
DATA_IMAGE_PREVIOUS = "Previous"
DATA_IMAGE_NEXT = "Next"
DATA_IMAGE_POSITION = "{position} of {total}"
DATA_IMAGE_CLASS = "class"
DATA_IMAGE_USE = "use"
DATA_IMAGE_USES = {"train": "training", "test": "test"}
DATA_IMAGE_PATH = "path"
DATA_IMAGE_ORIGINAL = "uploaded as"
DATA_IMAGE_SIZE = "size"
DATA_IMAGE_PIXELS = "{width} x {height} px, {size}"
DATA_IMAGE_ORIGIN = "copy of"
DATA_MASK = "Defect mask"
DATA_MASK_GOOD = "good"
DATA_MASK_DEFECTIVE = "defective"
DATA_MASK_NOT_FOR_GOOD = "Good images have no defect mask."
DATA_MASK_NONE = "no mask"
DATA_MASK_SHARE = "{share} of the image"
DATA_MASK_LEAD = "Draw over the defect. Figures of pixels and regions compare with this mask."
DATA_MASK_READER = "Operators draw the mask."
DATA_MASK_UNREAD = "These masks cannot be read or have another size; saving replaces them: {paths}"
DATA_MASK_SAVE = "Save the mask"
DATA_MASK_REMOVE = "Remove the mask"
DATA_MASK_DISCARD = "Discard changes"
DATA_MASK_SAVED = "The mask was saved."
DATA_MASK_REMOVED = "The mask was removed."
DATA_MASK_CHANGED = "not saved yet"
DATA_MASK_ASK_REMOVE = "Remove the mask of this image?"
DATA_MASK_REMOVE_EFFECT = "Figures of pixels then exclude the image. This cannot be undone."
DATA_MASK_ASK = "Save the changed mask?"
DATA_MASK_ASK_LEAD = "The mask of this image was changed and is not saved."
DATA_MASK_STAY = "Keep drawing"
DATA_MASK_LEAVE = "Discard"

# Upload
UPLOAD_TOO_MUCH = (
    "an upload has at most {files:,} files and {gigabytes} GB; choose the folder of one dataset, or use: "
    "blemish dataset upload"
)
UPLOAD_TOO_LARGE = "the file has {size} bytes, the limit is {limit}; choose a smaller image"
UPLOAD_NO_LAYOUT = (
    "The folder has no class folders that can be recognised, such as train/good, test/good and test/crack. "
    "Choose a class for all of its images."
)
UPLOAD_NO_GOOD = (
    "None of the test images is good by its folder: {classes}. Name the folder of good images good, or "
    "confirm that all of them are defective."
)
UPLOAD_BY_COMMAND = (
    "This layout keeps its classes in large files; upload it with: blemish dataset upload {dataset} FOLDER"
)
UPLOAD_SIGNED_OUT = "The session has ended; sign in, then choose the same files again."
UPLOAD_CUT = "The upload was cut; go on with the rest."
UPLOAD = {
    "title": "Upload",
    "drop": "Drop images or a folder anywhere on this page",
    "files": "Choose images",
    "folder": "Choose folder",
    "reading": "Reading the names of the files",
    "found": "{files} files, {size}",
    "as_named": "As the folder says",
    "new_class": "New defect class",
    "class": "Class",
    "class_name": "Name of the class",
    "replace": "Replace images of the same name",
    "only_defective": "All test images are defective",
    "start": "Upload {count} images",
    "start_one": "Upload 1 image",
    "nothing": "No image among these files has a place in the dataset.",
    "cancel": "Cancel",
    "progress": "{done} of {total} images",
    "bytes": "{done} of {total}",
    "left": "{time} left",
    "cancelled": (
        "Cancelled. {done} of {total} images are stored. Choose the same files again to upload the rest."
    ),
    "done": "{stored} stored, {unchanged} unchanged, {replaced} replaced, {left_out} left out",
    "paused": "The upload was cut. {done} of {total} images are stored.",
    "failed": "The upload ended. {done} of {total} images are stored.",
    "go_on": "Go on",
    "close": "Close",
    "interrupted": (
        "An upload of {time} was interrupted: {done} of {total} images were stored. Choose the same files "
        "again; images that are stored are skipped."
    ),
    "left_out": "Left out",
    "left_out_more": "{count} more",
    "not_images": "{count} other files are not images.",
    "unreadable": "cannot be read; it was changed or removed after it was chosen",
    "too_many": "more than {count} files; choose the folder of one dataset",
    "network": "The console does not answer.",
    "retry": "trying again",
}
"""Texts of ``pages/upload_box.js``."""
