import pytest

from care_accel import DualEncoder
from care_accel.encoding.loading.quiet import quiet_transformers
from care_accel.encoding.loading.router_writer import write_router_format


def test_loading_and_saving_a_model_prints_nothing(tiny_folders, tmp_path, capfd):
    from transformers.utils import logging

    logging.enable_progress_bar()  # as a user's process has it
    query, document = tiny_folders / "query_encoder", tiny_folders / "document_encoder"
    model = DualEncoder.from_pretrained(query=query, document=document, preset="care", runtime="pytorch")
    model.encode_query("头痛怎么办")
    model.encode_document("多饮水休息。")
    model.save_pretrained(tmp_path / "saved")
    write_router_format(DualEncoder.from_pretrained(query=query, document=query), tmp_path / "router")
    assert capfd.readouterr() == ("", "")


def test_transformers_reports_again_as_its_user_has_set_it_even_after_an_error():
    from transformers.utils import logging

    @quiet_transformers()
    def fail():
        assert not logging.is_progress_bar_enabled()
        raise KeyError

    before = logging.get_verbosity()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        with pytest.raises(KeyError):
            fail()
        assert logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(before)
