package store

import (
	"bytes"
	"fmt"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

type packetRow struct {
	bun.BaseModel `bun:"table:packets,alias:p"`
	Packet
	Number int64
}

// PutPacket makes p the newest packet of its run and environment, and fills its
// time if it has none. A packet that was there before becomes the newest again;
// another body under its digest is [ErrExists].
func (tx *Tx) PutPacket(p *Packet) error {
	if err := tx.writable("add a packet"); err != nil {
		return err
	}
	n, err := tx.next(p.Project, "packet")
	if err != nil {
		return err
	}
	restore(tx, p)
	if p.CreatedAt.IsZero() {
		p.CreatedAt = tx.now
	}
	row := packetRow{Packet: *p, Number: n}
	const where = "project = ? AND run = ? AND environment = ? AND digest = ?"
	added, err := tx.insert(&row)
	if err == nil && !added {
		var old packetRow
		if _, err = tx.one(&old, where, p.Project, p.Run, p.Environment, p.Digest); err == nil {
			if !bytes.Equal(old.Body, p.Body) {
				err = ErrExists
			} else {
				_, err = tx.db.NewUpdate().Model(&row).Column("number", "created_at", "expires_at").
					Where(where, p.Project, p.Run, p.Environment, p.Digest).Exec(tx.ctx)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't add packet %s of run %s/%s: %w", p.Digest.Short(), p.Project, p.Run, err)
	}
	return nil
}

// Packet returns the newest packet of a run and environment.
func (tx *Tx) Packet(project, run, environment string) (Packet, bool, error) {
	return tx.packet("project = ? AND run = ? AND environment = ?", project, run, environment)
}

// PacketByDigest returns the packet that people named.
func (tx *Tx) PacketByDigest(project string, d release.Digest) (Packet, bool, error) {
	return tx.packet("project = ? AND digest = ?", project, d)
}

func (tx *Tx) packet(where string, args ...any) (Packet, bool, error) {
	var rows []packetRow
	err := tx.db.NewSelect().Model(&rows).Where(where, args...).Order("number DESC").Limit(1).Scan(tx.ctx)
	if err != nil {
		return Packet{}, false, fmt.Errorf("couldn't read a packet: %w", err)
	}
	if len(rows) == 0 {
		return Packet{}, false, nil
	}
	return rows[0].Packet, true, nil
}

type decisionRow struct {
	bun.BaseModel `bun:"table:decisions,alias:d"`
	Decision
	Number int64
}

// AddDecision adds a person's answer and fills its time. A second one of the same
// person to the same packet is [ErrExists], whatever it says.
func (tx *Tx) AddDecision(d *Decision) error {
	if err := tx.writable("add a decision"); err != nil {
		return err
	}
	n, err := tx.next(d.Project, "decision")
	if err != nil {
		return err
	}
	restore(tx, d)
	d.At = tx.now
	added, err := tx.insert(&decisionRow{Decision: *d, Number: n})
	if err == nil && !added {
		err = fmt.Errorf("%s answered this packet before: %w", d.Actor, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("couldn't add a decision on packet %s: %w", d.Packet.Short(), err)
	}
	return nil
}

// Decisions lists the answers to a packet, oldest first; to all packets of the
// run and environment if packet is empty.
func (tx *Tx) Decisions(project, run, environment string, packet release.Digest) ([]Decision, error) {
	var rows []decisionRow
	q := tx.db.NewSelect().Model(&rows).Where("project = ? AND run = ? AND environment = ?", project, run, environment).Order("number")
	filter(q, "packet", string(packet))
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't read the decisions of run %s/%s: %w", project, run, err)
	}
	out := make([]Decision, len(rows))
	for i := range rows {
		out[i] = rows[i].Decision
	}
	return out, nil
}

type quarantineRow struct {
	bun.BaseModel `bun:"table:quarantines,alias:q"`
	Quarantine
	Number int64
}

const heldRelease = "project = ? AND service = ? AND release = ? AND lifted_at IS NULL"

// PutQuarantine keeps a release out and fills the time. If it is kept out
// already, that stays, with its reason.
func (tx *Tx) PutQuarantine(q *Quarantine) error {
	if err := tx.writable("quarantine a release"); err != nil {
		return err
	}
	restore(tx, q)
	old, ok, err := tx.Quarantined(q.Project, q.Service, q.Release)
	if err != nil {
		return err
	}
	if ok {
		*q = old
		return nil
	}
	n, err := tx.next(q.Project, "quarantine")
	if err != nil {
		return err
	}
	q.At, q.LiftedAt, q.LiftedBy, q.LiftedReason = tx.now, nil, "", ""
	if _, err := tx.db.NewInsert().Model(&quarantineRow{Quarantine: *q, Number: n}).Exec(tx.ctx); err != nil {
		return fmt.Errorf("couldn't quarantine release %s: %w", q.Release.Short(), err)
	}
	return nil
}

// Quarantined returns the quarantine that keeps a release out now.
func (tx *Tx) Quarantined(project, service string, id release.ID) (Quarantine, bool, error) {
	var row quarantineRow
	ok, err := tx.one(&row, heldRelease, project, service, id)
	if err != nil {
		return Quarantine{}, false, fmt.Errorf("couldn't read the quarantine of %s: %w", id.Short(), err)
	}
	return row.Quarantine, ok, nil
}

// Quarantines lists quarantines, lifted ones too, newest first. An empty service
// means any.
func (tx *Tx) Quarantines(project, service string) ([]Quarantine, error) {
	var rows []quarantineRow
	q := tx.db.NewSelect().Model(&rows).Where("project = ?", project).Order("number DESC")
	filter(q, "service", service)
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't list quarantines: %w", err)
	}
	out := make([]Quarantine, len(rows))
	for i := range rows {
		out[i] = rows[i].Quarantine
	}
	return out, nil
}

// LiftQuarantine lets a release in again; [ErrNotFound] if nothing kept it out.
func (tx *Tx) LiftQuarantine(project, service string, id release.ID, by release.Actor, reason string) error {
	if err := tx.writable("lift a quarantine"); err != nil {
		return err
	}
	row := quarantineRow{Quarantine: Quarantine{LiftedAt: &tx.now, LiftedBy: by, LiftedReason: reason}}
	n, err := affected(tx.db.NewUpdate().Model(&row).Column("lifted_at", "lifted_by", "lifted_reason").
		Where(heldRelease, project, service, id).Exec(tx.ctx))
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("couldn't lift the quarantine of %s: %w", id.Short(), err)
	}
	return nil
}
