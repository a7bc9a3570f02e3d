PRAGMA application_id = 1852010604;
BEGIN TRANSACTION;
CREATE TABLE attempts (
	run INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	owner TEXT NOT NULL, 
	provenance TEXT NOT NULL, 
	started REAL NOT NULL, 
	ended REAL, 
	outcome TEXT, 
	PRIMARY KEY (run, attempt), 
	FOREIGN KEY(run) REFERENCES runs (pk) ON DELETE CASCADE
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "attempts" VALUES(1,1,'{"host": "host", "boot": "boot", "pid": 1, "started": 0.0}','{"ncpl":"0.1.0"}',1.79523422736782741543e+09,1.7952342274290642738e+09,'finished');
CREATE TABLE epochs (
	run INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	task INTEGER NOT NULL, 
	task_epoch INTEGER NOT NULL, 
	samples_seen INTEGER NOT NULL, 
	seconds REAL NOT NULL, 
	measure_seconds REAL NOT NULL, 
	online_accuracy REAL, 
	online_loss REAL, 
	train_accuracy REAL, 
	train_loss REAL, 
	test_accuracy REAL, 
	test_loss REAL, 
	plasticity_loss REAL, 
	plasticity_loss_b24 REAL, 
	nc1 REAL, 
	nc2 REAL, 
	nc3 REAL, 
	nc4 REAL, 
	cdnv REAL, 
	dead_units REAL, 
	dormant_units REAL, 
	effective_rank REAL, 
	stable_rank REAL, 
	weight_norm REAL, 
	feature_norm REAL, 
	PRIMARY KEY (run, epoch), 
	FOREIGN KEY(run) REFERENCES runs (pk) ON DELETE CASCADE
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "epochs" VALUES(1,0,0,1,0,0.5,0.25,0.1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,3.33333333333333314829e-01,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "epochs" VALUES(1,1,0,2,10,0.5,0.25,1.00000000000000019428e-01,NULL,NULL,NULL,NULL,NULL,NULL,NULL,3.33333333333333314829e-01,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "epochs" VALUES(1,2,1,1,20,0.5,0.25,1.00000000000000019428e-01,NULL,NULL,NULL,NULL,NULL,NULL,NULL,3.33333333333333314829e-01,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE labels (
	run INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	PRIMARY KEY (run, name), 
	FOREIGN KEY(run) REFERENCES runs (pk) ON DELETE CASCADE
)
 WITHOUT ROWID,
 STRICT

;
CREATE TABLE measurements (
	run INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	metric INTEGER NOT NULL, 
	split INTEGER NOT NULL, 
	layer INTEGER NOT NULL, 
	value REAL NOT NULL, 
	PRIMARY KEY (run, epoch, metric, split, layer), 
	FOREIGN KEY(run, epoch) REFERENCES epochs (run, epoch) ON DELETE CASCADE, 
	FOREIGN KEY(metric) REFERENCES terms (id), 
	FOREIGN KEY(split) REFERENCES terms (id), 
	FOREIGN KEY(layer) REFERENCES terms (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "measurements" VALUES(1,0,3,7,1,6.66666666666666629659e-01);
INSERT INTO "measurements" VALUES(1,0,5,7,2,0.7);
INSERT INTO "measurements" VALUES(1,1,3,7,1,6.66666666666666629659e-01);
INSERT INTO "measurements" VALUES(1,1,5,7,2,0.7);
INSERT INTO "measurements" VALUES(1,2,3,7,1,6.66666666666666629659e-01);
INSERT INTO "measurements" VALUES(1,2,5,7,2,0.7);
CREATE TABLE ncpl_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT ncpl_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "ncpl_alembic_version" VALUES('0001');
CREATE TABLE runs (
	pk INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	identity TEXT NOT NULL, 
	scenario TEXT NOT NULL, 
	seed INTEGER NOT NULL, 
	settings TEXT NOT NULL, 
	horizon TEXT NOT NULL, 
	recorded TEXT NOT NULL, 
	status TEXT NOT NULL, 
	total_epochs INTEGER, 
	attempt INTEGER NOT NULL, 
	owner TEXT, 
	lease_expires REAL, 
	cohort TEXT, 
	error TEXT, 
	parent TEXT, 
	branch_epoch INTEGER, 
	created REAL NOT NULL, 
	updated REAL NOT NULL, 
	finished REAL, 
	seconds REAL NOT NULL, 
	PRIMARY KEY (pk), 
	CONSTRAINT known_status CHECK (status in ('pending', 'running', 'interrupted', 'finished', 'failed', 'diverged')), 
	UNIQUE (id)
)
 STRICT

;
INSERT INTO "runs" VALUES(1,'f00000000000','{}','permuted-digits',0,'{"lr":0.01}','{"tasks":3}','{}','finished',3,1,NULL,NULL,'["f00000000000"]',NULL,NULL,NULL,1.79523422735341382024e+09,1.7952342274290642738e+09,1.7952342274290642738e+09,2.25);
CREATE TABLE task_accuracy (
	run INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	evaluated_task INTEGER NOT NULL, 
	accuracy REAL NOT NULL, 
	PRIMARY KEY (run, epoch, evaluated_task), 
	FOREIGN KEY(run, epoch) REFERENCES epochs (run, epoch) ON DELETE CASCADE
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "task_accuracy" VALUES(1,0,0,0.9);
INSERT INTO "task_accuracy" VALUES(1,0,1,0.8);
INSERT INTO "task_accuracy" VALUES(1,1,0,0.9);
INSERT INTO "task_accuracy" VALUES(1,1,1,0.8);
INSERT INTO "task_accuracy" VALUES(1,2,0,0.9);
INSERT INTO "task_accuracy" VALUES(1,2,1,0.8);
CREATE TABLE terms (
	id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (kind, text)
)
 STRICT

;
INSERT INTO "terms" VALUES(1,'layer','last');
INSERT INTO "terms" VALUES(2,'layer','layer1');
INSERT INTO "terms" VALUES(3,'metric','nc1');
INSERT INTO "terms" VALUES(4,'metric','plasticity_loss');
INSERT INTO "terms" VALUES(5,'metric','vci');
INSERT INTO "terms" VALUES(6,'reason','first task');
INSERT INTO "terms" VALUES(7,'split','test');
INSERT INTO "terms" VALUES(8,'split','train');
CREATE TABLE undefined (
	run INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	metric INTEGER NOT NULL, 
	split INTEGER NOT NULL, 
	layer INTEGER NOT NULL, 
	reason INTEGER NOT NULL, 
	PRIMARY KEY (run, epoch, metric, split, layer), 
	FOREIGN KEY(run, epoch) REFERENCES epochs (run, epoch) ON DELETE CASCADE, 
	FOREIGN KEY(metric) REFERENCES terms (id), 
	FOREIGN KEY(split) REFERENCES terms (id), 
	FOREIGN KEY(layer) REFERENCES terms (id), 
	FOREIGN KEY(reason) REFERENCES terms (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "undefined" VALUES(1,0,4,8,1,6);
INSERT INTO "undefined" VALUES(1,1,4,8,1,6);
INSERT INTO "undefined" VALUES(1,2,4,8,1,6);
CREATE INDEX runs_by_scenario ON runs (scenario, seed);
CREATE INDEX runs_by_status ON runs (status);
CREATE VIEW epochs_of_runs AS SELECT r.id AS run, r.scenario, r.seed, r.status, e.epoch, e.task, e.task_epoch, e.samples_seen, e.seconds, e.measure_seconds, e.online_accuracy, e.online_loss, e.train_accuracy, e.train_loss, e.test_accuracy, e.test_loss, e.plasticity_loss, e.plasticity_loss_b24, e.nc1, e.nc2, e.nc3, e.nc4, e.cdnv, e.dead_units, e.dormant_units, e.effective_rank, e.stable_rank, e.weight_norm, e.feature_norm FROM epochs e JOIN runs r ON r.pk = e.run;
CREATE VIEW wide AS SELECT r.id AS run, r.scenario, r.seed, m.epoch, s.text AS split, l.text AS layer, max(CASE WHEN m.metric = 3 THEN m.value END) AS "nc1", max(CASE WHEN m.metric = 4 THEN m.value END) AS "plasticity_loss", max(CASE WHEN m.metric = 5 THEN m.value END) AS "vci" FROM measurements m JOIN runs r ON r.pk = m.run JOIN terms s ON s.id = m.split JOIN terms l ON l.id = m.layer GROUP BY r.id, r.scenario, r.seed, m.epoch, s.text, l.text;
COMMIT;
